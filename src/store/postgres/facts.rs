//! Reads the rows that a batch depends on, in one round trip.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio_postgres::Row;

use super::lanes::{self, Lane};
use super::record::Recording;
use super::row;
use super::session::{Statement, statement};
use crate::domain::event::EventId;
use crate::domain::project::{ContentHash, ProjectKey};
use crate::store::batch::NewEvent;
use crate::store::error::Fault;

/// The rows that a batch depends on.
///
/// While [`NewRows`](super::new_rows) computes the new rows, it updates these facts in memory.
pub(super) struct Facts {
    pub(super) next_event: i64,
    pub(super) next_delivery: i64,
    /// The lowest repetition for the id of a new event.
    pub(super) repetition: u32,
    /// The mark of the last recorded batch; see [`doubt`](super::doubt).
    pub(super) last_batch: Option<Vec<u8>>,
    /// The recorded files of the projects whose record changes.
    ///
    /// Each has its hash and change time.
    pub(super) files: HashMap<(ProjectKey, String), (ContentHash, i64)>,
    /// The needed payloads that are already stored.
    pub(super) payloads: HashSet<ContentHash>,
    /// Those ids of the new events that are already taken.
    pub(super) taken: HashSet<EventId>,
    /// The listeners of the projects in the batch.
    ///
    /// These are the webhooks to which events of the projects were routed.
    pub(super) listeners: BTreeMap<ProjectKey, BTreeSet<String>>,
    /// The listeners of moved projects, by the new key of the project.
    pub(super) arriving: BTreeMap<ProjectKey, BTreeSet<String>>,
    /// Those lanes of the new events that already have a pending delivery.
    pub(super) lanes: HashSet<Lane>,
    /// The projects with a pending delete, by webhook and by hashed project id.
    ///
    /// At first, these are only deletes for which the new events may have to wait.
    pub(super) deletes: HashMap<(String, Vec<u8>), BTreeSet<ProjectKey>>,
}

impl Facts {
    /// Makes the statements that read the facts. [`Facts::of`] takes their rows.
    pub(super) fn statements(recording: &Recording<'_>) -> Vec<Statement> {
        let repository = recording.repository;
        let changes = &recording.batch.changes;
        let events = || changes.iter().flat_map(|change| &change.events);
        let changed: BTreeSet<&ProjectKey> = changes
            .iter()
            .filter(|change| change.before != change.after)
            .map(|change| &change.key)
            .collect();
        let keys: BTreeSet<&ProjectKey> = changes.iter().map(|change| &change.key).collect();
        let definitions = changes.iter().filter_map(|c| c.after.last_definition());
        let hashes: BTreeSet<ContentHash> = events()
            .map(|new| new.event.payload)
            .chain(definitions.map(|file| file.hash))
            .chain(recording.payloads.iter().map(|given| given.hash()))
            .collect();
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
        let ids: Vec<String> = events().map(|new| new.id(recording.repetition).0).collect();
        let lanes: BTreeSet<Lane> = events().flat_map(lanes_of).collect();
        let arrivals: BTreeSet<(String, Vec<u8>)> = events()
            .filter(|new| new.is_arrival)
            .flat_map(|new| {
                let id = row::project_id(&new.event.key, &new.project_id);
                lanes_of(new).map(move |(webhook, _)| (webhook, id.clone()))
            })
            .collect();
        let (changed_organizations, changed_projects) = row::arrays(changed);
        let (organizations, projects) = row::arrays(keys);
        let (webhooks, lane_organizations, lane_projects) = lanes::arrays(&lanes);
        let (arrival_webhooks, arrival_ids): (Vec<String>, Vec<Vec<u8>>) =
            arrivals.into_iter().unzip();
        vec![
            statement!(FILES, repository, changed_organizations, changed_projects),
            statement!(
                "SELECT hash FROM payloads WHERE repository = $1 AND hash = ANY($2)",
                repository,
                hashes
            ),
            statement!(
                "SELECT id FROM events WHERE repository = $1 AND id = ANY($2)",
                repository,
                ids
            ),
            statement!(LISTENERS, repository, organizations, projects),
            statement!(
                LANES,
                repository,
                webhooks,
                lane_organizations,
                lane_projects
            ),
            statement!(DELETES, repository, arrival_webhooks, arrival_ids),
        ]
    }

    /// Reads the rows of the lock, of the moved listeners, and of `Facts::statements`.
    pub(super) fn of(
        lock: &Row,
        arriving: &[Row],
        moves: &[(ProjectKey, ProjectKey)],
        answers: &[Vec<Row>],
    ) -> Result<Self, Fault> {
        let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
        let mut facts = Self {
            next_event: row::number(lock, 0)?,
            next_delivery: row::number(lock, 1)?,
            repetition: row::small(lock, 2)?,
            last_batch: lock.try_get(4)?,
            files: HashMap::new(),
            payloads: HashSet::new(),
            taken: HashSet::new(),
            listeners: BTreeMap::new(),
            arriving: BTreeMap::new(),
            lanes: HashSet::new(),
            deletes: HashMap::new(),
        };
        for found in rows(0) {
            let file = (row::hash_in("a file", found, 3)?, row::number(found, 4)?);
            let place = (row::key(found, 0)?, row::text(found, 2)?);
            facts.files.insert(place, file);
        }
        for found in rows(1) {
            facts.payloads.insert(row::hash_in("a payload", found, 0)?);
        }
        for found in rows(2) {
            facts.taken.insert(EventId(row::text(found, 0)?));
        }
        for found in rows(3) {
            let listeners = facts.listeners.entry(row::key(found, 0)?).or_default();
            listeners.insert(row::text(found, 2)?);
        }
        for found in rows(4) {
            facts
                .lanes
                .insert((row::text(found, 0)?, row::key(found, 1)?));
        }
        for found in rows(5) {
            let key = (row::text(found, 0)?, found.try_get(1)?);
            facts
                .deletes
                .entry(key)
                .or_default()
                .insert(row::key(found, 2)?);
        }
        for found in arriving {
            let from = row::key(found, 0)?;
            for (_, to) in moves.iter().filter(|(former, _)| *former == from) {
                let webhooks = facts.arriving.entry(to.clone()).or_default();
                webhooks.insert(row::text(found, 2)?);
            }
        }
        Ok(facts)
    }
}

/// Returns the lanes in which an event may get a delivery.
fn lanes_of(new: &NewEvent) -> impl Iterator<Item = Lane> {
    new.webhooks
        .iter()
        .chain(&new.if_heard)
        .map(|(webhook, _)| (webhook.clone(), new.event.key.clone()))
}

const FILES: &str = "SELECT f.organization, f.project, f.path, f.hash, f.changed_ns \
     FROM files f JOIN unnest($2::text[], $3::text[]) AS k (o, p) \
     ON f.organization = k.o AND f.project = k.p WHERE f.repository = $1";

const LISTENERS: &str = "SELECT l.organization, l.project, l.webhook \
     FROM listeners l JOIN unnest($2::text[], $3::text[]) AS k (o, p) \
     ON l.organization = k.o AND l.project = k.p WHERE l.repository = $1";

const LANES: &str = "SELECT l.w, l.o, l.p \
     FROM unnest($2::text[], $3::text[], $4::text[]) AS l (w, o, p) \
     WHERE EXISTS (SELECT 1 FROM deliveries d WHERE d.repository = $1 AND d.webhook = l.w \
     AND d.organization = l.o AND d.project = l.p AND d.state = 'pending')";

const DELETES: &str = "SELECT DISTINCT d.webhook, d.project_id, d.organization, d.project \
     FROM deliveries d JOIN unnest($2::text[], $3::bytea[]) AS a (w, i) \
     ON d.webhook = a.w AND d.project_id = a.i \
     WHERE d.repository = $1 AND d.is_delete AND d.state = 'pending'";
