//! How long one change takes to its call.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Found, Size, labelled};
use crate::judge::{Judged, curve, summary};
use crate::place::{Place, Webhook, Who};
use crate::tree::{Edits, PUBLISHED};

/// Published copies are replaced, ten each second.
pub fn edits(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    let count = if bench.size == Size::Quick { 30 } else { 100 };
    let mut all = vec![Who::FloorEach, Who::Ours];
    all.extend(Some(Who::Inotifywait).filter(|who| who.is_there()));
    let mut measured = Vec::new();
    for who in all {
        let place = Place::new(count)?;
        let program = place.start(who, &bench.address())?;
        measured.push((who, place, program, Vec::new()));
    }
    for round in 0..bench.rounds {
        for (_, place, _, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(100),
            };
            judged.push(bench.round(place, &edits, &[])?);
        }
    }
    for (who, _, _, judged) in &measured {
        let more = json!({ "scenario": "edits", "who": who.name(), "curve_ms": curve(judged) });
        found(labelled(peer_summary(*who, judged), more))?;
    }
    Ok(())
}

/// What a peer does wrong is told, and is no failure of this program.
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

/// A hundred webhooks hear of each change.
pub fn many(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const WEBHOOKS: usize = 100;
    let count = if bench.size == Size::Quick { 5 } else { 20 };
    let paths: Vec<String> = (0..WEBHOOKS).map(|number| format!("/{number}")).collect();
    let webhooks: Vec<Webhook> = paths.iter().map(Webhook::at).collect();
    let floor_place = Place::new(count)?;
    let _floor = floor_place.floor(&bench.address(), true, WEBHOOKS)?;
    let our_place = Place::new(count)?;
    let _ours = our_place.daemon(&bench.address(), &webhooks)?;
    let mut measured = [
        (Who::FloorEach, &floor_place, Vec::new()),
        (Who::Ours, &our_place, Vec::new()),
    ];
    for round in 0..bench.rounds {
        for (_, place, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(250),
            };
            judged.push(bench.round(place, &edits, &paths)?);
        }
    }
    for (who, _, judged) in &measured {
        let more = json!({ "scenario": "many", "who": who.name(), "webhooks": WEBHOOKS });
        found(labelled(summary(judged, 0), more))?;
    }
    Ok(())
}

/// 99 webhooks that answer, without and with one beside them that never does.
pub fn hung(bench: &Bench, found: Found<'_>) -> anyhow::Result<()> {
    const GOOD: usize = 99;
    let count = if bench.size == Size::Quick { 10 } else { 40 };
    let paths: Vec<String> = (0..GOOD).map(|number| format!("/{number}")).collect();
    let mut measured = Vec::new();
    for hung in [0, 1] {
        let place = Place::new(count)?;
        let mut webhooks: Vec<Webhook> = paths.iter().map(Webhook::at).collect();
        webhooks.extend((0..hung).map(|_| Webhook::at(crate::receiver::HUNG)));
        let program = place.daemon(&bench.address(), &webhooks)?;
        measured.push((hung, place, program, Vec::new()));
    }
    // The first round is not measured: in it the hung webhook takes all that it is allowed to.
    for round in 0..=bench.rounds {
        for (_, place, _, judged) in &mut measured {
            let edits = Edits {
                file: PUBLISHED,
                projects: 0..count,
                round,
                pause: Duration::from_millis(150),
            };
            let one = bench.round(place, &edits, &paths)?;
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
