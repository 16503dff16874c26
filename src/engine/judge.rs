//! Turns the observations of one step into a batch to commit.
//!
//! Constraint: the module is pure. It uses only its arguments: no clock, disk or network.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::invalid_files::InvalidFiles;
use super::observation::{Gathered, Observation};
use super::portions::{PORTION_BYTES, Portion};
use crate::config::Config;
use crate::domain::delivery;
use crate::domain::event::{EventId, InferredEvent, Origin};
use crate::domain::infer::Inference;
use crate::domain::moves::{Comparison, Conclusion, infer_all};
use crate::domain::parameters::{parameters, project_id, username};
use crate::domain::portions;
use crate::domain::project::{ContentHash, FileState, Problem, ProjectKey, Recorded};
use crate::domain::route::{Interest, Subscription};
use crate::domain::settle::Unresolved;
use crate::domain::shared_ids::Hold;
use crate::domain::vanished::Presence;
use crate::observe::{Contents, Held};
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

    /// Adds the webhooks that may receive an event, with the times of the first attempts.
    fn address(&self, new: &mut NewEvent, now: Timestamp) {
        for (subscription, schedule) in &self.0 {
            let receivers = match subscription.interest((&new.event).into()) {
                Interest::Yes => &mut new.webhooks,
                Interest::IfHeard(_) => &mut new.if_heard,
                Interest::No(_) => continue,
            };
            receivers.push((subscription.webhook.clone(), delivery::first(schedule, now)));
        }
    }

    /// Whether any webhook may receive the event. If not, an opt-in event is not recorded.
    fn may_receive(&self, event: &InferredEvent, key: &ProjectKey) -> bool {
        let mut subscriptions = self.0.iter();
        subscriptions.any(|(subscription, _)| subscription.may_receive(event.kind, key))
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

/// The result of judging one step.
pub(super) struct Judgement {
    /// The first batch to commit. Its payloads and webhooks are added later.
    pub batch: Batch,
    /// The portions to commit after the batch.
    ///
    /// Before the commit of each portion, its contents that are not in memory are read again.
    pub portions: Vec<Portion>,
    /// For each observed project, the reasons to observe it again.
    pub unresolved: Vec<(ProjectKey, Unresolved)>,
    /// Projects whose move has to wait, each with the key of its new directory.
    ///
    /// The removal of the project that is recorded under that key must be confirmed first.
    pub waits_for: Vec<(ProjectKey, ProjectKey)>,
    /// Removals that wait for the removal of the same project in another directory.
    ///
    /// Each has the keys of the two directories.
    pub removed_with: Vec<(ProjectKey, ProjectKey)>,
    /// Arrived projects that wait, each with the key of its old directory.
    ///
    /// The old directory is in another organization. Its delete must be recorded first.
    pub held: Vec<(ProjectKey, ProjectKey)>,
    /// The new and the former key of each moved project.
    pub moved: Vec<(ProjectKey, ProjectKey)>,
    /// Live events whose actor is unknown, if `audit` is a source of usernames.
    pub unnamed: Vec<Unnamed>,
    /// The number of projects that the first batch adds to the record.
    ///
    /// `n_removed` is the number that it removes.
    pub n_added: usize,
    pub n_removed: usize,
}

/// A live event whose actor is unknown.
pub(super) struct Unnamed {
    pub id: EventId,
    pub subject: FileState,
    pub before: Option<FileState>,
    /// Whether the project moved. Then `before` is the definition at the former path.
    pub is_move: bool,
    /// The number of directories on the path of `subject` that certainly existed before.
    ///
    /// These are the root and the directories above the definition. For a new project, this is only
    /// the root.
    pub depth: usize,
}

/// Judges the observations.
///
/// Moves the records and the events out of `gathered`, but leaves the contents and the held files
/// there.
pub(super) fn judge(gathered: &mut Gathered, rules: &Rules<'_>) -> Judgement {
    let layout = &rules.config.repository.layout;
    let relocate = |file: &FileState, to: &ProjectKey| layout.relocate(&file.path, to);
    let Gathered {
        observations,
        contents,
        ..
    } = gathered;
    let comparisons: Vec<&Comparison> = observations
        .iter()
        .map(|observation| &observation.comparison)
        .collect();
    let conclusions = infer_all(&comparisons, &relocate);
    let mut judgement = Judgement {
        batch: Batch::new(rules.now),
        portions: Vec::new(),
        unresolved: Vec::new(),
        waits_for: Vec::new(),
        removed_with: Vec::new(),
        held: Vec::new(),
        moved: Vec::new(),
        unnamed: Vec::new(),
        n_added: 0,
        n_removed: 0,
    };
    let left = left_organization(&comparisons, &conclusions);
    // Merge removed copies first. If this step also deletes the project from the other directory,
    // the webhooks that received events of any of the copies receive that delete event.
    let merged = conclusions.iter().filter_map(|conclusion| {
        let other = conclusion.lives_on_in.clone()?;
        Some(merge(&conclusion.key, other))
    });
    judgement.batch.changes.extend(merged);
    for (observation, conclusion) in observations.iter_mut().zip(conclusions) {
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
        judgement.conclude(key, moved_from, observation, inference, rules, contents);
    }
    let postponed: BTreeSet<&ProjectKey> =
        judgement.removed_with.iter().map(|(key, _)| key).collect();
    for (key, unresolved) in &mut judgement.unresolved {
        if left.contains(key) {
            unresolved.presence = Presence::Left;
        }
        unresolved.is_postponed = postponed.contains(key);
    }
    judgement
}

/// Returns the removed projects that arrived in another organization.
///
/// They moved, so they are not treated as vanished.
fn left_organization(
    comparisons: &[&Comparison],
    conclusions: &[Conclusion],
) -> BTreeSet<ProjectKey> {
    let identity = |comparison: &Comparison| comparison.recorded_identity();
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
    /// Adds the webhooks to the events, whose parameters are final now.
    pub(super) fn address(&mut self, routes: &Routes, now: Timestamp) {
        let portions = self.portions.iter_mut();
        let changes = portions.map(|portion| &mut portion.change);
        for change in self.batch.changes.iter_mut().chain(changes) {
            for new in &mut change.events {
                routes.address(new, now);
            }
        }
    }

    /// Whether any project has vanished or is still missing.
    pub(super) fn has_vanished(&self) -> bool {
        let mut presences = self.unresolved.iter().map(|(_, open)| open.presence);
        presences.any(|presence| matches!(presence, Presence::Gone | Presence::Replaced))
    }

    /// Adds the result for one project to the judgement.
    fn conclude(
        &mut self,
        key: ProjectKey,
        moved_from: Option<ProjectKey>,
        observation: &mut Observation,
        mut inference: Inference,
        rules: &Rules<'_>,
        contents: &Contents,
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
        let before = std::mem::take(&mut observation.before);
        let mut short_lived = std::mem::take(&mut observation.events);
        let mut events = std::mem::take(&mut inference.events);
        // While adopting, new projects cannot be told from projects that existed before, so there
        // are no events.
        if rules.is_adopting {
            short_lived.clear();
            events.clear();
            // Without a delete event, the project must get no later `ProjectDeleteAndUnpublish`
            // either.
            inference
                .record
                .deleted
                .take_if(|_| before.deleted.is_none());
        }
        for events in [&mut short_lived, &mut events] {
            let is_wanted = |event: &InferredEvent| rules.routes.may_receive(event, &key);
            events.retain(|event| !event.kind.is_opt_in() || is_wanted(event));
        }
        let in_project = Some(key.clone());
        if rules.invalid_files.of(&in_project) != problems {
            self.batch.problems.push((in_project, problems));
        }
        self.unresolved.push((
            key.clone(),
            Unresolved {
                presence: Presence::of(
                    &before,
                    &inference.record,
                    &observation.comparison.observed,
                ),
                missing: inference.missing,
                retry,
                origin: observation.origin,
                is_postponed: false,
            },
        ));
        let is_silent = short_lived.is_empty() && events.is_empty();
        if inference.record == before && is_silent {
            return;
        }
        let judged = Judged {
            key,
            moved_from,
            before,
            after: inference.record,
            short_lived,
            events,
        };
        self.add(judged, observation, rules, contents);
    }

    /// Adds the change of a project to the first batch. Splits a large change into portions.
    fn add(
        &mut self,
        judged: Judged,
        observation: &Observation,
        rules: &Rules<'_>,
        contents: &Contents,
    ) {
        let Judged {
            key,
            moved_from,
            before,
            after,
            short_lived,
            events,
        } = judged;
        let n_to_read = |hash: &ContentHash| contents.n_to_read(hash);
        let mut inferred = short_lived.iter().chain(&events);
        let is_large = is_definition_large(&after, contents)
            || inferred.any(|event| n_to_read(&event.payload()) > 0);
        let n_short_lived = short_lived.len();
        let events = if is_large {
            portions::order(events)
        } else {
            events
        };
        let inferred: Vec<InferredEvent> = short_lived.into_iter().chain(events).collect();
        let split = is_large.then(|| {
            let change = portions::Change {
                before: &before,
                after: &after,
                events: &inferred,
                n_short_lived,
            };
            portions::split(&change, PORTION_BYTES, n_to_read)
        });
        let is_arrival = inferred.iter().any(|event| event.kind.is_import());
        let definition = after.definition.as_ref().or(before.definition.as_ref());
        let events = inferred.iter().map(|event| NewEvent {
            is_arrival,
            ..new_event(event, &key, definition, observation, rules)
        });
        let events: Vec<NewEvent> = events.collect();
        if rules.config.naming.audit_key().is_some() && observation.origin == Origin::Live {
            // Only live events: while the daemon was down, it received no audit records.
            let definition = definition.filter(|_| !is_arrival);
            self.unnamed.extend(unnamed(&inferred, &events, definition));
        }
        let change = Change {
            key,
            moved_from,
            before,
            after,
            events,
        };
        match split {
            Some(split) => self.add_portions(change, split, contents),
            None => {
                let (adds, removes) = (is_new(&change), is_removed(&change));
                self.add_first(change, adds, removes);
            }
        }
    }

    fn add_first(&mut self, change: Change, adds_project: bool, removes_project: bool) {
        self.n_added += usize::from(adds_project);
        self.n_removed += usize::from(removes_project);
        self.batch.changes.push(change);
    }

    /// Adds the portions of a change.
    ///
    /// The first portion goes into the first batch if it records a move, or if its definition need
    /// not be read again.
    fn add_portions(&mut self, whole: Change, split: Vec<portions::Portion>, contents: &Contents) {
        let n_portions = split.len();
        let (adds_project, removes_project) = (is_new(&whole), is_removed(&whole));
        let Change {
            key,
            mut moved_from,
            events,
            ..
        } = whole;
        let mut events = events.into_iter();
        let mut n_events_before = 0;
        for (index, part) in split.into_iter().enumerate() {
            // A move also changes the record of the old directory, so it must be in the first
            // batch.
            let is_small = !is_definition_large(&part.after, contents);
            let goes_first = index == 0 && (moved_from.is_some() || is_small);
            let portion = Portion {
                adds_project: adds_project && index == 0,
                removes_project: removes_project && index + 1 == n_portions,
                n_events_before,
                change: Change {
                    key: key.clone(),
                    moved_from: moved_from.take(),
                    before: part.before,
                    after: part.after,
                    events: events.by_ref().take(part.n_events).collect(),
                },
            };
            n_events_before += part.n_events;
            if goes_first {
                let (adds, removes) = (portion.adds_project, portion.removes_project);
                self.add_first(portion.change, adds, removes);
            } else {
                self.portions.push(portion);
            }
        }
    }
}

/// Whether the definition must be read again when this record is committed.
fn is_definition_large(record: &Recorded, contents: &Contents) -> bool {
    let definition = record.definition.as_ref();
    definition.is_some_and(|file| contents.n_to_read(&file.hash) > 0)
}

/// Whether a change adds a project. Files without a definition are not a project.
fn is_new(change: &Change) -> bool {
    change.before.definition.is_none() && change.after.definition.is_some()
}

/// Whether a change removes a project; see [`is_new`].
fn is_removed(change: &Change) -> bool {
    change.before.definition.is_some() && change.after.definition.is_none()
}

/// The result of judging one project.
struct Judged {
    key: ProjectKey,
    moved_from: Option<ProjectKey>,
    before: Recorded,
    after: Recorded,
    /// The events of short-lived files, which come first.
    short_lived: Vec<InferredEvent>,
    events: Vec<InferredEvent>,
}

/// Lists the events whose actors must be found.
///
/// `definition` is the definition of the project. `None` if the project is new.
fn unnamed(
    inferred: &[InferredEvent],
    events: &[NewEvent],
    definition: Option<&FileState>,
) -> Vec<Unnamed> {
    // The path of a definition has as many components as directories above it, root included.
    let depth = definition.map_or(1, |file| file.path.split('/').count());
    let both = inferred.iter().zip(events);
    both.map(|(inferred, new)| Unnamed {
        id: new.event.id.clone(),
        subject: inferred.subject.clone(),
        before: inferred.before.clone(),
        is_move: inferred.moved_from.is_some(),
        depth,
    })
    .collect()
}

/// Keeps unrecorded files open while the removal of another file is unconfirmed.
///
/// These files still have a path, but may be gone when the removal is confirmed.
fn keep_linked(observation: &mut Observation, inference: &Inference) {
    if inference.missing.is_empty() {
        return;
    }
    let is_recorded = |held: &Held| {
        let file = inference.record.file(&held.path);
        file.is_some_and(|file| held.is_recorded_as(file))
    };
    let linked = std::mem::take(&mut observation.linked).into_iter();
    let waiting = linked.filter(|held| !is_recorded(held));
    observation.waiting.extend(waiting);
}

/// Makes the change that merges a removed copy of a project into another directory.
///
/// The change itself has no event. The other directory takes over the pending deliveries, and the
/// list of webhooks that received events of the removed copy. If the project is deleted from the
/// other directory, in the same batch or later, these webhooks receive that delete event.
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
    let parameters = parameters(inferred, key, definition, naming);
    let (origin, hint) = (observation.origin, observation.hint.clone());
    let mut event = inferred.complete(key, origin, hint, parameters, rules.now);
    if naming.audit_key().is_some() {
        let (source, _) = username(subject, &naming.username, None);
        event.explanation.username_from = Some(source.to_owned());
    }
    NewEvent {
        event,
        project_id: project_id(key, subject, definition).to_lowercase(),
        is_arrival: inferred.kind.is_import(),
        tag: subject.tag.clone(),
        stamp: subject.stamp,
        webhooks: Vec::new(),
        if_heard: Vec::new(),
    }
}
