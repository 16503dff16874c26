//! Throughput.

use std::time::Duration;

use serde_json::json;

use super::latency::peer_summary;
use super::{Bench, Found, Size, labelled};
use crate::judge::summary;
use crate::repository::{Repository, Webhook, Who};
use crate::tree::{DEFINITION, Edits, PUBLISHED};

/// Replaces published copies at full speed.
pub fn burst(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    let sizes: &[usize] = match bench.size {
        Size::Quick => &[1_000],
        _ => &[1_000, 10_000],
    };
    for &size in sizes {
        let our_place = Repository::new(size)?;
        let other_place = Repository::new(size)?;
        let ours = our_place.start(Who::Ours, &bench.address())?;
        let mut measured = vec![
            (Who::FloorEach, Vec::new()),
            (Who::FloorBatch, Vec::new()),
            (Who::Ours, Vec::new()),
        ];
        // It takes 10 ms for each file, so a larger burst has the same rate.
        if size == 1_000 && Who::Inotifywait.is_there() {
            measured.push((Who::Inotifywait, Vec::new()));
        }
        for round in 0..bench.rounds.min(3) {
            for (who, judged) in &mut measured {
                let edits = Edits {
                    file: PUBLISHED,
                    projects: 0..size,
                    round,
                    pause: Duration::ZERO,
                };
                judged.push(if *who == Who::Ours {
                    bench.round(&our_place, &edits, &[])?
                } else {
                    let _other = other_place.start(*who, &bench.address())?;
                    bench.round(&other_place, &edits, &[])?
                });
            }
        }
        for (who, judged) in &measured {
            let mut more = json!({ "scenario": "burst", "who": who.name(), "size": size });
            if *who == Who::Ours {
                more = labelled(json!({ "peak_kb": ours.peak_memory()? }), more);
            }
            found(labelled(peer_summary(*who, judged), more))?;
        }
    }
    Ok(())
}

/// Creates projects at full speed, directory and file at once.
pub fn fresh(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const PROJECTS: usize = 1_000;
    let repository = Repository::new(0)?;
    let _program = repository.start(Who::Ours, &bench.address())?;
    let mut judged = Vec::new();
    for round in 0..bench.rounds.min(3) {
        let edits = Edits {
            file: DEFINITION,
            projects: round * PROJECTS..(round + 1) * PROJECTS,
            round,
            pause: Duration::ZERO,
        };
        judged.push(bench.round(&repository, &edits, &[])?);
    }
    let more = json!({ "scenario": "fresh", "who": Who::Ours.name(), "size": PROJECTS });
    found(labelled(summary(&judged, 0), more))?;
    Ok(())
}

/// Measures a burst at a receiver that takes 50 ms for each answer.
pub fn slow(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const ANSWER_MS: usize = 50;
    let count = if bench.size == Size::Quick {
        200
    } else {
        1_000
    };
    let repository = Repository::new(count)?;
    let webhook = Webhook::at(format!("/after/{ANSWER_MS}"));
    let limit = webhook.concurrency * 1_000 / ANSWER_MS;
    let program = repository.daemon(&bench.address(), &[webhook])?;
    let edits = Edits {
        file: PUBLISHED,
        projects: 0..count,
        round: 0,
        pause: Duration::ZERO,
    };
    let judged = bench.round(&repository, &edits, &[])?;
    let more = json!({
        "scenario": "slow", "who": Who::Ours.name(), "size": count, "answer_ms": ANSWER_MS,
        // The number of parallel calls divided by the time of an answer.
        "limit_per_second": limit, "peak_kb": program.peak_memory()?,
    });
    found(labelled(summary(&[judged], 0), more))?;
    Ok(())
}
