//! Small charts of the last hour, as SVG.

use maud::{Markup, html};

use super::parts::duration;
use crate::metrics::Minute;

/// The height of a chart, in units of its view box.
const HEIGHT: u64 = 60;
/// The width of the bar of one minute, with the gap to the next bar.
const BAR: usize = 6;

/// Draws the attempts of each minute, and the mean time from a change to its callback.
pub(super) fn all(hour: &[Minute]) -> Markup {
    let sum = |of: fn(&Minute) -> u64| hour.iter().map(of).sum::<u64>();
    let (delivered, failed) = (sum(|minute| minute.delivered), sum(|minute| minute.failed));
    let slowest = hour.iter().filter_map(Minute::latency_ms).max();
    let highest = hour
        .iter()
        .map(|minute| minute.delivered + minute.failed)
        .max();
    html! {
        section.charts aria-label="The last hour" {
            figure {
                figcaption { "Attempts in the last hour, by minute: " (delivered) " delivered, " (failed) " failed" }
                (chart(hour.len(), &format!("Attempts per minute: {delivered} delivered and {failed} failed in an hour, at most {} in a minute", highest.unwrap_or(0)), &bars(hour, highest)))
            }
            figure {
                figcaption {
                    "Time from change to callback in the last hour"
                    @if let Some(slowest) = slowest { "; the mean of the slowest minute is " (duration(slowest)) }
                    @else { "; no callbacks of live events" }
                }
                (chart(hour.len(), "Mean time from change to callback, for each minute", &latencies(hour, slowest)))
            }
        }
    }
}

fn chart(minutes: usize, label: &str, content: &Markup) -> Markup {
    let width = minutes * BAR;
    html! {
        svg role="img" aria-label=(label) viewBox={ "0 0 " (width) " " (HEIGHT) }
            preserveAspectRatio="none" {
            line.axis x1="0" x2=(width) y1=(HEIGHT) y2=(HEIGHT) {}
            (content)
        }
    }
}

/// Returns the height of the bar for a value.
///
/// Every value above 0 has a visible bar.
fn height(value: u64, highest: Option<u64>) -> u64 {
    let highest = highest.unwrap_or(0).max(1);
    let height = value.saturating_mul(HEIGHT) / highest;
    if value > 0 { height.max(2) } else { 0 }
}

fn bars(hour: &[Minute], highest: Option<u64>) -> Markup {
    html! {
        @for (at, minute) in hour.iter().enumerate() {
            @let good = height(minute.delivered, highest);
            @let bad = height(minute.failed, highest).min(HEIGHT - good.min(HEIGHT));
            (bar(at, HEIGHT - good, good, "good"))
            (bar(at, HEIGHT - good - bad, bad, "bad"))
        }
    }
}

fn latencies(hour: &[Minute], slowest: Option<u64>) -> Markup {
    html! {
        @for (at, minute) in hour.iter().enumerate() {
            @let height = height(minute.latency_ms().unwrap_or(0), slowest);
            (bar(at, HEIGHT - height, height, "wait"))
        }
    }
}

fn bar(at: usize, y: u64, height: u64, class: &str) -> Markup {
    html! {
        @if height > 0 {
            rect class=(class) x=(at * BAR) y=(y) width=(BAR - 1) height=(height) {}
        }
    }
}
