//! The latency from one change to its call.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Found, Size, labelled};
use crate::judge::{Judged, curve, summary};
use crate::repository::{Repository, Webhook, Who};
use crate::tree::{Edits, PUBLISHED};

/// Replaces published copies, ten each second.
pub fn edits(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    let count = if bench.size == Size::Quick { 30 } else { 100 };
    let mut all = vec![Who::FloorEach, Who::Ours];
    all.extend(Some(Who::Inotifywait).filter(|who| who.is_there()));
    let mut measured = Vec::new();
    for who in all {
        let repository = Repository::new(count)?;
        let program = repository.start(who, &bench.address())?;
        measured.push((who, repository, program, Vec::new()));
    }
    for round in 0..bench.rounds {
        for (_, repository, _, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(100),
            };
            judged.push(bench.round(repository, &edits, &[])?);
        }
    }
    for (who, _, _, judged) in &measured {
        let more = json!({ "scenario": "edits", "who": who.name(), "curve_ms": curve(judged) });
        found(labelled(peer_summary(*who, judged), more))?;
    }
    Ok(())
}

/// Summarizes a peer. Its faults are reported, but do not fail the run.
pub(super) fn peer_summary(who: Who, judged: &[Judged]) -> Value {
    let mut result = summary(judged, 0);
    if who == Who::Inotifywait
        && let Some(object) = result.as_object_mut()
    {
        for key in ["lost", "early", "doubled", "unasked"] {
            if let Some(count) = object.remove(key) {
                object.insert(format!("peer_{key}"), count);
            }
        }
    }
    result
}

/// Replaces published copies with a hundred webhooks for each.
pub fn many(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const WEBHOOKS: usize = 100;
    let count = if bench.size == Size::Quick { 5 } else { 20 };
    let paths: Vec<String> = (0..WEBHOOKS).map(|number| format!("/{number}")).collect();
    let webhooks: Vec<Webhook> = paths.iter().map(Webhook::at).collect();
    let floor_place = Repository::new(count)?;
    let _floor = floor_place.floor(&bench.address(), true, WEBHOOKS)?;
    let our_place = Repository::new(count)?;
    let _ours = our_place.daemon(&bench.address(), &webhooks)?;
    let mut measured = [
        (Who::FloorEach, &floor_place, Vec::new()),
        (Who::Ours, &our_place, Vec::new()),
    ];
    for round in 0..bench.rounds {
        for (_, repository, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(250),
            };
            judged.push(bench.round(repository, &edits, &paths)?);
        }
    }
    for (who, _, judged) in &measured {
        let more = json!({ "scenario": "many", "who": who.name(), "webhooks": WEBHOOKS });
        found(labelled(summary(judged, 0), more))?;
    }
    Ok(())
}

/// Measures 99 webhooks, without and with another one that never answers.
pub fn hung(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const GOOD: usize = 99;
    let count = if bench.size == Size::Quick { 10 } else { 40 };
    let paths: Vec<String> = (0..GOOD).map(|number| format!("/{number}")).collect();
    let mut measured = Vec::new();
    for hung in [0, 1] {
        let repository = Repository::new(count)?;
        let mut webhooks: Vec<Webhook> = paths.iter().map(Webhook::at).collect();
        webhooks.extend((0..hung).map(|_| Webhook::at(crate::receiver::HUNG)));
        let program = repository.daemon(&bench.address(), &webhooks)?;
        measured.push((hung, repository, program, Vec::new()));
    }
    // The first round is not measured: the hung webhook takes all of its connections in it.
    for round in 0..=bench.rounds {
        for (_, repository, _, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(150),
            };
            let one = bench.round(repository, &edits, &paths)?;
            judged.extend(Some(one).filter(|_| round > 0));
        }
    }
    for (hung, _, _, judged) in &measured {
        let more = json!({
            "scenario": "hung", "who": Who::Ours.name(), "webhooks": GOOD, "hung": hung,
        });
        found(labelled(summary(judged, 0), more))?;
    }
    Ok(())
}
