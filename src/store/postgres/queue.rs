//! Records the results of attempts, and changes due times.
//!
//! Constraint: senders record results at the same time, so they share the lock on the repository.
//! In two cases, a sender takes the exclusive lock instead. First, if a delete is no longer
//! pending: deliveries in other [lanes](super::lanes) may wait for it. Second, if another sender
//! sends from the same lane. Senders that record failures of the same webhook wait for each other
//! at its row. [`session`](super::session) has the rules.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::lanes::Left;
use super::row::{self, column};
use super::session::{LOCK_ALONE, LOCK_SHARED, Session, Statement, parts, statement};
use super::{FingerprintKey, webhooks};
use crate::domain::delivery::{State, Verdict};
use crate::domain::project::ProjectKey;
use crate::store::answer;
use crate::store::delivery::{AttemptLog, Effect, Failure, Finish};
use crate::store::error::Fault;
use crate::store::listing::OffCause;

/// A claimed delivery. The results of attempts change it in memory.
struct Entry {
    webhook: String,
    key: ProjectKey,
    state: State,
    /// The hash of the project id, if the delivery is a delete.
    deletes: Option<Vec<u8>>,
    n_redeliveries: u32,
    fingerprint: Option<Vec<u8>>,
    n_attempts: i64,
    n_attempts_before: i64,
    due: i64,
    is_due_as_asked: bool,
    finished: Option<i64>,
    last_status: Option<i32>,
    last_error: Option<String>,
    /// Whether another sender has a claim in this lane too.
    ///
    /// This happens after a move merged two lanes.
    is_lane_shared: bool,
    is_changed: bool,
}

/// Locks and reads those of the deliveries `$2` that this sender has claimed.
const ENTRIES: &str = "SELECT d.id, d.webhook, d.organization, d.project, d.state, \
     CASE WHEN d.is_delete THEN d.project_id END, d.n_redeliveries, w.fingerprint, d.n_attempts, \
     d.n_attempts_before, d.due_ms, d.is_due_as_asked, d.finished_ms, d.last_status, d.last_error, \
     EXISTS (SELECT 1 FROM claims o WHERE o.repository = $1 AND o.webhook = d.webhook \
     AND o.organization = d.organization AND o.project = d.project AND o.sender <> $3) \
     FROM claims c JOIN deliveries d ON d.repository = $1 AND d.id = c.delivery \
     LEFT JOIN webhooks w ON w.repository = $1 AND w.name = d.webhook \
     WHERE c.repository = $1 AND c.delivery = ANY($2) AND c.sender = $3 \
     ORDER BY d.id FOR UPDATE OF d";

impl Entry {
    fn of(found: &Row) -> Result<(i64, Self), Fault> {
        let entry = Self {
            webhook: row::text(found, 1)?,
            key: row::key(found, 2)?,
            state: row::state("the delivery's state", &row::text(found, 4)?)?,
            deletes: found.try_get(5)?,
            n_redeliveries: row::small(found, 6)?,
            fingerprint: found.try_get(7)?,
            n_attempts: row::number(found, 8)?,
            n_attempts_before: row::number(found, 9)?,
            due: row::number(found, 10)?,
            is_due_as_asked: found.try_get(11)?,
            finished: found.try_get(12)?,
            last_status: found.try_get(13)?,
            last_error: found.try_get(14)?,
            is_lane_shared: found.try_get(15)?,
            is_changed: false,
        };
        Ok((row::number(found, 0)?, entry))
    }

    /// Whether the settings of the request have another fingerprint than the stored one.
    fn is_outdated(&self, finish: &Finish, key: &FingerprintKey) -> bool {
        match (&finish.fingerprint, &self.fingerprint) {
            (Some(used), Some(kept)) => key.keyed(used)[..] != kept[..],
            _ => false,
        }
    }
}

/// The effects of results of attempts, collected in memory.
#[derive(Default)]
struct Results<'a> {
    entries: HashMap<i64, Entry>,
    logged: HashSet<(i64, i64)>,
    attempts: Vec<&'a Finish>,
    failures: BTreeMap<String, Failure>,
    gone: Vec<(String, String, Timestamp)>,
    left: Left,
}

/// The results to record.
pub(super) struct Finishing<'a> {
    pub(super) repository: i32,
    pub(super) sender: i64,
    pub(super) finished: &'a [Finish],
    pub(super) key: &'a FingerprintKey,
    /// Whether this process stores the fingerprints of webhooks' settings.
    ///
    /// If not, its own settings may be older than those with the stored fingerprints.
    pub(super) is_watching: bool,
}

impl<'a> Finishing<'a> {
    /// Records attempts and their verdicts in one transaction.
    ///
    /// Usually needs two round trips. Ignores removed deliveries, and attempts that are already
    /// recorded. Also ignores deliveries that this sender has no claim of, because another sender
    /// may have taken them over.
    pub(super) async fn finish(&self, session: &mut Session) -> Result<(), Fault> {
        let mut results = self.read(session, LOCK_SHARED).await?;
        if results.depend_on_others() {
            session.undo().await?;
            results = self.read(session, LOCK_ALONE).await?;
        }
        let mut statements = results.statements(self.repository)?;
        statements.push(statement!(
            "UPDATE senders SET n_recordings = n_recordings + 1 WHERE id = $1",
            self.sender
        ));
        session.commit(statements).await?;
        Ok(())
    }

    /// Begins a transaction, removes the claims, and applies the results in memory.
    async fn read(&self, session: &mut Session, lock: &'static str) -> Result<Results<'a>, Fault> {
        let repository = self.repository;
        let finished = self.finished.iter();
        let ids: Vec<i64> = finished.map(|one| one.delivery).collect();
        let answers = session
            .begin(
                "BEGIN",
                vec![
                    statement!(lock, repository),
                    statement!(ENTRIES, repository, ids.clone(), self.sender),
                    statement!(
                        "SELECT delivery, number FROM attempts \
                         WHERE repository = $1 AND delivery = ANY($2)",
                        repository,
                        ids.clone()
                    ),
                    statement!(
                        "DELETE FROM claims WHERE repository = $1 AND sender = $2 \
                         AND delivery = ANY($3)",
                        repository,
                        self.sender,
                        ids
                    ),
                ],
            )
            .await?;
        let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
        let mut results = Results::default();
        for found in rows(1) {
            let (id, entry) = Entry::of(found)?;
            results.entries.insert(id, entry);
        }
        for found in rows(2) {
            let attempt = (row::number(found, 0)?, row::number(found, 1)?);
            results.logged.insert(attempt);
        }
        for one in self.finished {
            results.apply(one, self.key, self.is_watching);
        }
        Ok(results)
    }
}

impl<'a> Results<'a> {
    /// Whether these results and another sender's results may affect the same lane.
    ///
    /// If both were recorded at the same time, neither transaction would see the results of the
    /// other, and neither would set the next head of the lane.
    fn depend_on_others(&self) -> bool {
        let mut entries = self.entries.values();
        self.left.has_deletes() || entries.any(|entry| entry.is_lane_shared)
    }

    fn apply(&mut self, finish: &'a Finish, key: &FingerprintKey, is_watching: bool) {
        let attempt = &finish.attempt;
        let Some(entry) = self.entries.get_mut(&finish.delivery) else {
            return;
        };
        let number = i64::from(attempt.number);
        if !self.logged.insert((finish.delivery, number)) {
            return;
        }
        self.attempts.push(finish);
        let is_outdated = entry.is_outdated(finish, key);
        let before = entry.state;
        let effect = finish.effect(before, entry.n_redeliveries, is_outdated, is_watching);
        let (ended, error) = (finish.ended(), finish.error());
        entry.take(attempt, &effect, ended, error.as_deref());
        if before == State::Pending && entry.state != State::Pending {
            let lane = (entry.webhook.clone(), entry.key.clone());
            self.left.add(lane, entry.deletes.clone());
        }
        let Some(error) = error else {
            return;
        };
        if effect.switches_off {
            let gone = (entry.webhook.clone(), error.clone(), ended);
            self.gone.push(gone);
        }
        let failure = Failure {
            at: ended,
            error,
            rests_until: finish.rests_until.filter(|_| !is_outdated),
        };
        failure.replace(&mut self.failures, &entry.webhook);
    }

    fn statements(self, repository: i32) -> Result<Vec<Statement>, Fault> {
        let mut statements = Vec::new();
        if !self.attempts.is_empty() {
            statements.extend(log(repository, &self.attempts)?);
        }
        let changed: Vec<(i64, Entry)> = self
            .entries
            .into_iter()
            .filter(|(_, entry)| entry.is_changed)
            .collect();
        if !changed.is_empty() {
            statements.push(update(repository, &changed));
        }
        if !self.failures.is_empty() {
            statements.push(webhooks::lock(repository, &self.failures));
        }
        for (webhook, reason, at) in &self.gone {
            statements.extend(webhooks::switch_off(
                repository,
                webhook,
                OffCause::Gone,
                reason,
                *at,
            ));
        }
        if !self.failures.is_empty() {
            statements.push(webhooks::failed(repository, &self.failures));
        }
        self.left.promote(repository, &mut statements);
        Ok(statements)
    }
}

impl Entry {
    /// Applies an attempt and its effect to the row.
    fn take(
        &mut self,
        attempt: &AttemptLog,
        effect: &Effect,
        ended: Timestamp,
        error: Option<&str>,
    ) {
        self.is_changed = true;
        self.n_attempts = self.n_attempts.max(i64::from(attempt.number));
        self.last_status = attempt.status.map(i32::from);
        self.last_error = error.map(row::storable);
        if self.state != effect.state {
            self.state = effect.state;
            self.finished = Some(row::milliseconds(ended));
            return;
        }
        self.n_attempts_before = match effect.starts_again {
            true => self.n_attempts,
            false => self
                .n_attempts_before
                .saturating_add(i64::from(effect.n_uncounted)),
        };
        self.due = effect.due.map_or(self.due, row::milliseconds_up);
        self.is_due_as_asked = effect.is_due_as_asked;
    }
}

/// Writes the changed rows of deliveries.
fn update(repository: i32, changed: &[(i64, Entry)]) -> Statement {
    statement!(
        "UPDATE deliveries d SET state = n.state, is_head = d.is_head AND n.state = 'pending', \
         n_attempts = n.n_attempts, n_attempts_before = n.n_before, due_ms = n.due, \
         is_due_as_asked = n.asked, finished_ms = n.finished, last_status = n.status, \
         last_error = n.error \
         FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
         $7::bool[], $8::bigint[], $9::int[], $10::text[]) \
         AS n (id, state, n_attempts, n_before, due, asked, finished, status, error) \
         WHERE d.repository = $1 AND d.id = n.id",
        repository,
        column(changed, |(id, _)| *id),
        column(changed, |(_, entry)| entry.state.as_str()),
        column(changed, |(_, entry)| entry.n_attempts),
        column(changed, |(_, entry)| entry.n_attempts_before),
        column(changed, |(_, entry)| entry.due),
        column(changed, |(_, entry)| entry.is_due_as_asked),
        column(changed, |(_, entry)| entry.finished),
        column(changed, |(_, entry)| entry.last_status),
        column(changed, |(_, entry)| entry.last_error.clone()),
    )
}

/// Inserts attempts.
fn log(repository: i32, finished: &[&Finish]) -> Result<Vec<Statement>, Fault> {
    let size = |one: &&Finish| one.attempt.answer.len();
    parts(finished, size)
        .map(|some| insert_attempts(repository, some))
        .collect()
}

fn insert_attempts(repository: i32, finished: &[&Finish]) -> Result<Statement, Fault> {
    let answers: Vec<answer::Stored<'_>> = finished
        .iter()
        .map(|one| answer::stored(&one.attempt.answer, one.verdict == Verdict::Delivered))
        .collect();
    let headers = finished
        .iter()
        .map(|one| row::to_json("the request's headers", &one.attempt.request_headers))
        .collect::<Result<Vec<String>, Fault>>()?;
    let bodies: Vec<Vec<u8>> = answers.iter().map(|answer| answer.bytes.to_vec()).collect();
    let sizes: Vec<Option<i64>> = answers.iter().map(|answer| answer.size).collect();
    Ok(statement!(
        "INSERT INTO attempts (repository, delivery, number, at_ms, duration_ms, status, error, \
         request_headers, answer, answer_size) SELECT $1::int, * \
         FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[], \
         $7::text[], $8::text[], $9::bytea[], $10::bigint[]) ON CONFLICT DO NOTHING",
        repository,
        column(finished, |one| one.delivery),
        column(finished, |one| i64::from(one.attempt.number)),
        column(finished, |one| row::milliseconds(one.attempt.at)),
        column(finished, |one| row::duration(one.attempt.duration)),
        column(finished, |one| one.attempt.status.map(i32::from)),
        column(finished, |one| {
            one.attempt.error.as_deref().map(row::storable)
        }),
        headers,
        bodies,
        sizes,
    ))
}

pub(super) fn correct_times(repository: i32, webhook: &str, now: i64) -> Statement {
    statement!(
        "UPDATE deliveries d SET due_ms = $3, waiting_ms = least(waiting_ms, $3) \
         WHERE d.repository = $1 AND d.webhook = $2 AND d.state = 'pending' AND d.due_ms > $3 \
         AND (d.waiting_ms > $3 OR EXISTS (SELECT 1 FROM attempts a WHERE a.repository = $1 \
         AND a.delivery = d.id AND a.at_ms > $3)) RETURNING d.id",
        repository,
        webhook.to_owned(),
        now
    )
}

/// Makes failed deliveries due now.
pub(super) fn retry_now(repository: i32, webhook: &str, now: i64) -> Statement {
    statement!(
        "UPDATE deliveries SET due_ms = $3, is_due_as_asked = FALSE WHERE repository = $1 \
         AND webhook = $2 AND state = 'pending' AND due_ms > $3 AND n_attempts > 0",
        repository,
        webhook.to_owned(),
        now
    )
}

/// Ends the waits of deliveries that the receiver deferred (`Retry-After`).
pub(super) fn retry_deferred(repository: i32, webhook: &str) -> Statement {
    statement!(
        "UPDATE deliveries SET due_ms = least(due_ms, waiting_ms), is_due_as_asked = FALSE \
         WHERE repository = $1 AND webhook = $2 AND state = 'pending' AND is_due_as_asked",
        repository,
        webhook.to_owned()
    )
}
