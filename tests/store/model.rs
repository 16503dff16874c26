//! Random sequences against a small model: nothing lost, nothing invented, nothing out of order.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::helpers::states;
use crate::helpers::*;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::EventKind;

const WEBHOOKS: [&str; 2] = ["audit", "catalog"];

#[derive(Clone, Debug)]
enum Step {
    /// An event, a delete or another one, goes to the webhooks whose bit is set. Two projects each
    /// have one project id.
    Record {
        project: u8,
        webhooks: u8,
        is_delete: bool,
    },
    /// The `which`-th due lane of a webhook is attempted, with this verdict.
    Finish {
        webhook: usize,
        which: usize,
        verdict: u8,
    },
    /// Time passes, in seconds.
    Wait(i64),
    /// The store is closed and opened again.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..4_u8, prop::bool::weighted(0.3)).prop_map(
            |(project, webhooks, is_delete)| Step::Record { project, webhooks, is_delete }
        ),
        6 => (0..2_usize, 0..4_usize, 0..3_u8).prop_map(|(webhook, which, verdict)| Step::Finish {
            webhook,
            which,
            verdict,
        }),
        2 => (1..20_i64).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
    ]
}

/// A pending delivery: its place in the order of recording, its project id, the text of its payload,
/// its due time, its number of attempts.
#[derive(Clone, Debug)]
struct Waiting {
    number: usize,
    project_id: u8,
    is_delete: bool,
    is_arrival: bool,
    text: String,
    due: i64,
    n_attempts: u32,
}

#[derive(Default)]
struct Model {
    lanes: BTreeMap<(&'static str, String), VecDeque<Waiting>>,
    finished: BTreeMap<(&'static str, &'static str), u64>,
}

impl Model {
    /// The due deliveries of a webhook: by project, the text and the number of attempts.
    fn due(&self, webhook: &str, now: i64) -> BTreeMap<String, (String, u32)> {
        self.lanes
            .iter()
            .filter(|((name, _), _)| *name == webhook)
            .filter_map(|((_, project), lane)| Some((project.clone(), lane.front()?)))
            .filter(|(_, head)| head.due <= now && !self.waits_for_a_delete(webhook, head))
            .map(|(project, head)| (project, (head.text.clone(), head.n_attempts)))
            .collect()
    }
}

impl Model {
    fn waits_for_a_delete(&self, webhook: &str, head: &Waiting) -> bool {
        let mut lanes = self.lanes.iter().filter(|((name, _), _)| *name == webhook);
        head.is_arrival
            && lanes.any(|(_, lane)| {
                lane.iter().any(|other| {
                    other.is_delete
                        && other.project_id == head.project_id
                        && other.number < head.number
                })
            })
    }
}

fn run(steps: Vec<Step>) {
    let fixture = Fixture::new();
    let mut store = fixture.store();
    let mut model = Model::default();
    let mut now = 0_i64;
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Record {
                project,
                webhooks,
                is_delete,
            } => {
                let project_id = project / 2;
                let heard: Vec<&'static str> = (0..2)
                    .filter(|bit| webhooks & (1 << bit) != 0)
                    .map(|bit| WEBHOOKS[bit])
                    .collect();
                let (project, text) = (format!("p{project}"), format!("text {number}"));
                let kind = if is_delete {
                    EventKind::ProjectDelete
                } else if number.is_multiple_of(2) {
                    EventKind::ProjectImport
                } else {
                    EventKind::SnapshotCreate
                };
                let mut new = event(kind, &key(&project), &text, &heard);
                new.project_id = project_id.to_string();
                let committed = store.record(of_event(new, &text)).unwrap();
                for (webhook, ready) in &committed.deliveries.ready {
                    let due = claims(&store, webhook, at(now)).ready;
                    assert!(due.contains(ready), "{ready:?}");
                }
                for webhook in heard {
                    let lane = model.lanes.entry((webhook, project.clone())).or_default();
                    lane.push_back(Waiting {
                        number,
                        project_id,
                        is_delete,
                        is_arrival: kind.is_import(),
                        text: text.clone(),
                        due: 0,
                        n_attempts: 0,
                    });
                }
            }
            Step::Finish {
                webhook,
                which,
                verdict,
            } => {
                let webhook = WEBHOOKS[webhook];
                let ready = claims(&store, webhook, at(now)).ready;
                let Some(claim) = ready.get(which) else {
                    continue;
                };
                let lane = model
                    .lanes
                    .get_mut(&(webhook, claim.event.key.project.clone()));
                let lane = lane.unwrap();
                let (verdict, word) = match verdict {
                    0 => (Verdict::Delivered, "delivered"),
                    1 => (Verdict::Dead, "dead"),
                    _ => (Verdict::Retry(at(now + 7)), "retry"),
                };
                end(&store, claim, verdict);
                if word == "retry" {
                    let head = lane.front_mut().unwrap();
                    head.due = now + 7;
                    head.n_attempts += 1;
                } else {
                    lane.pop_front();
                    *model.finished.entry((webhook, word)).or_default() += 1;
                }
            }
            Step::Wait(seconds) => now += seconds,
            Step::Reopen => {
                store.close();
                store = fixture.store();
            }
        }
        for webhook in WEBHOOKS {
            let found: BTreeMap<String, (String, u32)> = claims(&store, webhook, at(now))
                .ready
                .into_iter()
                .map(|claim| {
                    let text = String::from_utf8(claim.payload.to_vec()).unwrap();
                    let text = text.trim_start_matches("<schema name=\"");
                    let text = text.trim_end_matches("\"/>").to_owned();
                    (claim.event.key.project, (text, claim.attempt - 1))
                })
                .collect();
            assert_eq!(found, model.due(webhook, now));
        }
    }
    let states = states(&store);
    for webhook in WEBHOOKS {
        let state = states.get(webhook);
        let waiting = model.lanes.iter().filter(|((name, _), _)| *name == webhook);
        let n_waiting: usize = waiting.map(|(_, lane)| lane.len()).sum();
        let n_pending = state.map_or(0, |state| state.n_pending);
        assert_eq!(n_pending, u64::try_from(n_waiting).unwrap());
        let finished = |word| model.finished.get(&(webhook, word)).copied().unwrap_or(0);
        assert_eq!(
            state.map_or(0, |state| state.n_delivered),
            finished("delivered")
        );
        assert_eq!(state.map_or(0, |state| state.n_dead), finished("dead"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_cases(24), ..ProptestConfig::default() })]

    #[test]
    fn the_queue_behaves_as_the_model(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
