//! Turns the observations of one step into a batch to commit, and lists unresolved projects.
//!
//! Constraint: the module is pure. It uses only its arguments: no clock, disk or network.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::gather::{Gathered, Observation};
use super::invalid_files::InvalidFiles;
use crate::config::Config;
use crate::domain::delivery;
use crate::domain::event::InferredEvent;
use crate::domain::infer::Inference;
use crate::domain::moves::{Comparison, Conclusion, infer_all};
use crate::domain::parameters::{parameters, project_id};
use crate::domain::project::{ContentHash, FileState, Problem, ProjectKey, Recorded};
use crate::domain::route::{Interest, Subscription};
use crate::domain::settle::Unresolved;
use crate::domain::shared_ids::Hold;
use crate::domain::vanished::Presence;
use crate::observe::Held;
use crate::store::{Batch, Change, NewEvent};

/// The subscriptions of the enabled webhooks, each with its retry schedule.
#[derive(Debug)]
pub(super) struct Routes(Vec<(Subscription, Vec<Duration>)>);

impl Routes {
    pub(super) fn of(config: &Config) -> Self {
        let enabled = config.webhooks.iter().filter(|webhook| webhook.enabled);
        Self(
            enabled
                .map(|webhook| (webhook.subscription.clone(), webhook.schedule.clone()))
                .collect(),
        )
    }

    /// Lists the webhooks with this interest in an event, each with the time of its first attempt.
    fn of_event(
        &self,
        event: &InferredEvent,
        key: &ProjectKey,
        interest: Interest,
        now: Timestamp,
    ) -> Vec<(String, Timestamp)> {
        self.0
            .iter()
            .filter(|(subscription, _)| subscription.interest(event.kind, key) == interest)
            .map(|(subscription, schedule)| {
                (subscription.webhook.clone(), delivery::first(schedule, now))
            })
            .collect()
    }
}

/// The settings and the state that a judgement depends on.
pub(super) struct Rules<'a> {
    pub config: &'a Config,
    pub routes: &'a Routes,
    pub invalid_files: &'a InvalidFiles,
    /// Whether projects are recorded without events.
    pub is_adopting: bool,
    pub now: Timestamp,
}

/// The judgement of one step.
pub(super) struct Judgement {
    pub batch: Batch,
    /// For each observed project, the reasons to observe it again.
    pub unresolved: Vec<(ProjectKey, Unresolved)>,
    /// Projects whose move waits, with the key that they move to.
    ///
    /// The move waits until the removal of the other project at that key is confirmed.
    pub waits_for: Vec<(ProjectKey, ProjectKey)>,
    /// Removals that wait for the removal of another directory with the same project.
    pub removed_with: Vec<(ProjectKey, ProjectKey)>,
    /// Arrived projects that wait for a removal, with the key that they left.
    ///
    /// The project has to be deleted from that key's organization first.
    pub held: Vec<(ProjectKey, ProjectKey)>,
    /// The new and the former key of each moved project.
    pub moved: Vec<(ProjectKey, ProjectKey)>,
    /// The number of projects that the batch adds. `n_removed` is the number that it removes.
    pub n_added: usize,
    pub n_removed: usize,
}

/// Judges the observations.
///
/// It moves the contents and the records out of `gathered`. The held files stay there.
pub(super) fn judge(gathered: &mut Gathered, rules: &Rules<'_>) -> Judgement {
    let layout = &rules.config.repository.layout;
    let relocate = |file: &FileState, to: &ProjectKey| layout.relocate(&file.path, to);
    let comparisons: Vec<&Comparison> = gathered
        .observations
        .iter()
        .map(|observation| &observation.comparison)
        .collect();
    let conclusions = infer_all(&comparisons, &relocate);
    let mut judgement = Judgement {
        batch: Batch::new(rules.now),
        unresolved: Vec::new(),
        waits_for: Vec::new(),
        removed_with: Vec::new(),
        held: Vec::new(),
        moved: Vec::new(),
        n_added: 0,
        n_removed: 0,
    };
    let mut needed: BTreeSet<ContentHash> = BTreeSet::new();
    let left = left_organization(&comparisons, &conclusions);
    // Merge removed copies first, so that the listeners of all copies receive the delete.
    let merged = conclusions.iter().filter_map(|conclusion| {
        let other = conclusion.lives_on_in.clone()?;
        Some(merge(&conclusion.key, other))
    });
    judgement.batch.changes.extend(merged);
    for (observation, conclusion) in gathered.observations.iter_mut().zip(conclusions) {
        let (key, inference) = (conclusion.key, conclusion.inference);
        let moved_from = conclusion.moved_from;
        judgement
            .moved
            .extend(moved_from.iter().map(|from| (key.clone(), from.clone())));
        judgement
            .waits_for
            .extend(conclusion.moves_to.map(|to| (key.clone(), to)));
        if let Some(Hold::Removal(from)) = conclusion.hold {
            judgement.held.push((key.clone(), from));
        }
        let removed_with = conclusion.removed_with.map(|other| (key.clone(), other));
        judgement.removed_with.extend(removed_with);
        judgement.conclude(key, moved_from, observation, inference, rules, &mut needed);
    }
    let postponed: BTreeSet<&ProjectKey> =
        judgement.removed_with.iter().map(|(key, _)| key).collect();
    for (key, unresolved) in &mut judgement.unresolved {
        if left.contains(key) {
            unresolved.presence = Presence::Left;
        }
        unresolved.is_postponed = postponed.contains(key);
    }
    judgement.batch.payloads = std::mem::take(&mut gathered.contents)
        .into_iter()
        .filter(|(hash, _)| needed.contains(hash))
        .collect();
    judgement
}

/// Returns the projects that are gone and arrived in another organization.
///
/// They did not vanish, so they are in no wave.
fn left_organization(
    comparisons: &[&Comparison],
    conclusions: &[Conclusion],
) -> BTreeSet<ProjectKey> {
    let identity = |comparison: &Comparison| Some(comparison.departure()?.identity());
    let of_holds: BTreeSet<&ProjectKey> = conclusions
        .iter()
        .filter_map(|conclusion| match conclusion.hold.as_ref()? {
            Hold::Removal(from) => Some(from),
            Hold::Unclear(_) => None,
        })
        .collect();
    let of_holds = comparisons.iter().filter(|one| of_holds.contains(&one.key));
    let gone: BTreeSet<_> = of_holds
        .map(|one| (one.key.organization.as_str(), identity(one)))
        .collect();
    comparisons
        .iter()
        .filter(|one| gone.contains(&(one.key.organization.as_str(), identity(one))))
        .filter(|one| one.departure().is_some())
        .map(|one| one.key.clone())
        .collect()
}

impl Judgement {
    /// Whether a project vanished, or is still missing.
    pub(super) fn has_vanished(&self) -> bool {
        let mut presences = self.unresolved.iter().map(|(_, open)| open.presence);
        presences.any(|presence| matches!(presence, Presence::Gone | Presence::Replaced))
    }

    /// Adds the inference about one project to the batch.
    fn conclude(
        &mut self,
        key: ProjectKey,
        moved_from: Option<ProjectKey>,
        observation: &mut Observation,
        inference: Inference,
        rules: &Rules<'_>,
        needed: &mut BTreeSet<ContentHash>,
    ) {
        let problems: Vec<Problem> = observation
            .comparison
            .observed
            .problems()
            .cloned()
            .collect();
        let retry =
            !observation.waiting.is_empty() || problems.iter().any(|problem| problem.may_resolve);
        keep_linked(observation, &inference);
        // Until the first full scan is recorded, a new project looks like an old one.
        let inferred = observation.events.iter().chain(&inference.events);
        let is_arrival = inferred.clone().any(|event| event.kind.is_import());
        let events: Vec<NewEvent> = inferred
            .filter(|_| !rules.is_adopting)
            .map(|event| {
                let (after, before) = (&inference.record, &observation.before);
                let definition = after.definition.as_ref().or(before.definition.as_ref());
                NewEvent {
                    is_arrival,
                    ..new_event(event, &key, definition, observation, rules)
                }
            })
            .collect();
        needed.extend(events.iter().map(|event| event.event.payload));
        needed.extend(inference.record.definition.iter().map(|file| file.hash));
        let in_project = Some(key.clone());
        if rules.invalid_files.of(&in_project) != problems {
            self.batch.problems.push((in_project, problems));
        }
        self.unresolved.push((
            key.clone(),
            Unresolved {
                presence: Presence::of(
                    &observation.before,
                    &inference.record,
                    &observation.comparison.observed,
                ),
                missing: inference.missing,
                retry,
                origin: observation.origin,
                is_postponed: false,
            },
        ));
        if inference.record != observation.before || !events.is_empty() {
            let (was_empty, is_empty) =
                (observation.before.is_empty(), inference.record.is_empty());
            self.n_added += usize::from(was_empty && !is_empty);
            self.n_removed += usize::from(!was_empty && is_empty);
            self.batch.changes.push(Change {
                key,
                moved_from,
                before: std::mem::take(&mut observation.before),
                after: inference.record,
                events,
            });
        }
    }
}

/// Keeps holding files whose event waits for the removal of another file.
///
/// Such a file still has a path, but may have lost it when the removal is confirmed.
fn keep_linked(observation: &mut Observation, inference: &Inference) {
    if inference.missing.is_empty() {
        return;
    }
    // A file that was overwritten in place has the recorded inode, but a later change time.
    let is_recorded = |held: &Held| {
        let file = inference.record.file(&held.path);
        file.is_some_and(|file| {
            let (known, held) = (file.stamp, held.stamp);
            known.inode == held.inode && known.changed_ns >= held.changed_ns
        })
    };
    let linked = std::mem::take(&mut observation.linked).into_iter();
    let waiting = linked.filter(|held| !is_recorded(held));
    observation.waiting.extend(waiting);
}

/// Makes the change that merges a removed copy of a project into another directory.
///
/// The other directory gets the pending deliveries and the listeners. So the listeners receive the
/// delete of the project.
fn merge(removed: &ProjectKey, other: ProjectKey) -> Change {
    Change {
        key: other,
        moved_from: Some(removed.clone()),
        before: Recorded::default(),
        after: Recorded::default(),
        events: Vec::new(),
    }
}

fn new_event(
    inferred: &InferredEvent,
    key: &ProjectKey,
    definition: Option<&FileState>,
    observation: &Observation,
    rules: &Rules<'_>,
) -> NewEvent {
    let subject = &inferred.subject;
    let naming = &rules.config.naming;
    let parameters = parameters(inferred.kind, key, subject, definition, naming);
    let (origin, hint) = (observation.origin, observation.hint.clone());
    let webhooks = |interest| {
        let routes = rules.routes;
        routes.of_event(inferred, key, interest, rules.now)
    };
    NewEvent {
        event: inferred.complete(key, origin, hint, parameters, rules.now),
        project_id: project_id(key, subject, definition).to_lowercase(),
        is_arrival: inferred.kind.is_import(),
        tag: subject.tag.clone(),
        stamp: subject.stamp,
        webhooks: webhooks(Interest::Yes),
        if_heard: webhooks(Interest::IfHeard),
    }
}
