//! Claims due deliveries, and records the results of attempts.
//!
//! Constraint: only the heads of [`lanes`](super::lanes) are claimed. So the cost of finding a due
//! delivery does not depend on the number of pending ones. One statement finds the heads. If there are
//! any, a transaction claims them for the [sender](super::sender), and leaves out changed ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::lanes::Left;
use super::session::{LOCK, Session, Statement, statement};
use super::{FingerprintKey, row, webhooks};
use crate::domain::delivery::{State, Verdict};
use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::store::answer;
use crate::store::delivery::{AttemptLog, Claim, Claims, Finish, Unreadable};
use crate::store::error::Fault;
use crate::store::listing::OffCause;
use crate::store::payload;

/// The maximum total size of the payloads of one claim, in bytes. A single payload may be larger.
const CLAIM_BYTES: i64 = 1024 * 1024;

/// Selects the first heads of a webhook's lanes, the longest due first.
///
/// The last row has only the next due time. A row has its payload only if the rows before it leave
/// room for it: `before` is their size.
const HEADS: &str = "SELECT h.id, h.due_ms, h.organization, h.project, h.n_attempts, \
     h.n_attempts_before, h.origin, h.n_redeliveries, h.event, h.rests, h.before, \
     p.size, CASE WHEN h.before < $7 AND h.due_ms <= $8 THEN p.compressed END, \
     e.id, e.kind, e.organization, e.project, e.origin, e.occurred_ns, e.parameters, \
     e.explanation, e.payload \
     FROM (SELECT d.*, coalesce(w.rests_until_ms, 0) AS rests, \
       coalesce(sum(s.size) OVER (ORDER BY d.due_ms, d.id ROWS BETWEEN UNBOUNDED PRECEDING \
         AND 1 PRECEDING), 0)::bigint AS before \
       FROM (SELECT * FROM deliveries d WHERE d.repository = $1 AND d.webhook = $3 AND d.is_head \
         AND NOT EXISTS (SELECT 1 FROM unnest($4::text[], $5::text[]) AS x (o, p) \
           WHERE x.o = d.organization AND x.p = d.project) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.repository = $1 AND c.webhook = $3 \
           AND c.organization = d.organization AND c.project = d.project AND c.sender <> $2) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.repository = $1 AND c.delivery = d.id \
           AND c.sender <> $2) \
         ORDER BY d.due_ms, d.id LIMIT $6) d \
       LEFT JOIN webhooks w ON w.repository = $1 AND w.name = $3 \
       LEFT JOIN events v ON v.repository = $1 AND v.sequence = d.event \
       LEFT JOIN payloads s ON s.repository = $1 AND s.hash = v.payload \
       WHERE w.off_cause IS NULL AND (w.sole_sender IS NULL OR w.sole_sender = $2)) h \
     LEFT JOIN events e ON e.repository = $1 AND e.sequence = h.event \
     LEFT JOIN payloads p ON p.repository = $1 AND p.hash = e.payload \
     ORDER BY h.due_ms, h.id";

/// The column of the first of the event's columns in [`HEADS`].
const EVENT_COLUMN: usize = 13;

/// A claim of a webhook's due deliveries.
pub(super) struct Claiming {
    pub(super) repository: i32,
    pub(super) sender: i64,
    pub(super) webhook: String,
    pub(super) now: Timestamp,
    pub(super) limit: usize,
    pub(super) excluding: HashSet<ProjectKey>,
}

/// Claims due heads of lanes, the longest due first.
///
/// Also returns the numbers of attempts and redeliveries that each delivery had.
pub(super) async fn find_due(
    session: &mut Session,
    claiming: &Claiming,
) -> Result<(Claims, Vec<(i64, i64, i64)>), Fault> {
    let now = row::milliseconds(claiming.now);
    let (organizations, projects) = row::arrays(&claiming.excluding);
    // Read one head more than the claim can return. It has the next due time.
    let n_heads = row::limit(claiming.limit.saturating_add(1));
    let due = if claiming.limit == 0 { i64::MIN } else { now };
    let rows = session
        .rows(statement!(
            HEADS,
            claiming.repository,
            claiming.sender,
            claiming.webhook.clone(),
            organizations,
            projects,
            n_heads,
            CLAIM_BYTES,
            due,
        ))
        .await?;
    let (mut claims, mut heads) = (Claims::default(), Vec::new());
    for head in &rows {
        let due = row::number(head, 1)?;
        let rests_until = row::number(head, 9)?;
        let n_claimed = claims.ready.len().saturating_add(claims.unreadable.len());
        if due > now
            || rests_until > now
            || n_claimed >= claiming.limit
            || row::number(head, 10)? >= CLAIM_BYTES
        {
            claims.next_due = Some(row::from_milliseconds(due.max(rests_until)));
            break;
        }
        claim(head, &mut claims)?;
        let number = |column| row::number(head, column);
        heads.push((number(0)?, number(4)?, number(7)?));
    }
    Ok((claims, heads))
}

/// Claims one of the [`HEADS`]. An unreadable delivery is only reported.
fn claim(head: &Row, claims: &mut Claims) -> Result<(), Fault> {
    let delivery = row::number(head, 0)?;
    let attempt = row::small(head, 4)?.saturating_add(1);
    let n_redeliveries = row::small(head, 7)?;
    let key = row::key(head, 2)?;
    let whole = || -> Result<Claim, Fault> {
        let id: Option<&str> = head.try_get(EVENT_COLUMN)?;
        if id.is_none() {
            return Err(Fault::Undecodable {
                what: format!("the event {}", row::number(head, 8)?),
                reason: "it is missing".to_owned(),
            });
        }
        let event = row::event(head, EVENT_COLUMN)?;
        let (size, compressed): (Option<i64>, Option<&[u8]>) =
            (head.try_get(11)?, head.try_get(12)?);
        let stored = size.zip(compressed).ok_or_else(|| Fault::MissingPayload {
            hash: event.payload,
            needed_by: format!("the event {}", event.id),
        })?;
        let payload = payload::restore(&event.payload, stored.0, stored.1)?;
        let origin = row::text(head, 6)?;
        Ok(Claim {
            delivery,
            attempt,
            scheduled_attempt: attempt.saturating_sub(row::small(head, 5)?).max(1),
            n_redeliveries,
            origin: row::word("the delivery's origin", &origin, Origin::from_word)?,
            key: key.clone(),
            event,
            payload,
        })
    };
    match whole() {
        Ok(claim) => claims.ready.push(claim),
        Err(
            fault @ (Fault::MissingPayload { .. }
            | Fault::WrongPayload { .. }
            | Fault::Coding { .. }
            | Fault::Undecodable { .. }),
        ) => claims.unreadable.push(Unreadable {
            delivery,
            attempt,
            key,
            n_redeliveries,
            fault,
        }),
        Err(fault) => return Err(fault),
    }
    Ok(())
}

/// A delivery before and after the results of attempts.
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
    is_changed: bool,
}

const ENTRIES: &str = "SELECT d.id, d.webhook, d.organization, d.project, d.state, \
     CASE WHEN d.is_delete THEN d.project_id END, d.n_redeliveries, w.fingerprint, d.n_attempts, \
     d.n_attempts_before, d.due_ms, d.is_due_as_asked, d.finished_ms, d.last_status, d.last_error \
     FROM deliveries d LEFT JOIN webhooks w ON w.repository = $1 AND w.name = d.webhook \
     WHERE d.repository = $1 AND d.id = ANY($2)";

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
            is_changed: false,
        };
        Ok((row::number(found, 0)?, entry))
    }

    /// Whether the settings of the webhook changed since the request was sent.
    fn is_outdated(&self, finish: &Finish, key: &FingerprintKey) -> bool {
        match (&finish.fingerprint, &self.fingerprint) {
            (Some(used), Some(kept)) => key.keyed(used)[..] != kept[..],
            _ => false,
        }
    }
}

/// The results of attempts while they are applied in memory.
#[derive(Default)]
struct Results<'a> {
    entries: HashMap<i64, Entry>,
    logged: HashSet<(i64, i64)>,
    attempts: Vec<&'a Finish>,
    failures: BTreeMap<String, webhooks::Failure>,
    gone: Vec<(String, String, Timestamp)>,
    left: Left,
}

/// Records attempts and their verdicts, in one transaction of two round trips.
///
/// It ignores removed deliveries, attempts that are already recorded, and deliveries whose claim is gone.
pub(super) async fn finish(
    session: &mut Session,
    repository: i32,
    sender: i64,
    finished: &[Finish],
    key: &FingerprintKey,
) -> Result<(), Fault> {
    let ids: Vec<i64> = finished.iter().map(|one| one.delivery).collect();
    let numbers: Vec<i64> = finished
        .iter()
        .map(|one| i64::from(one.attempt.number))
        .collect();
    let answers = session
        .begin(
            "BEGIN",
            vec![
                statement!(LOCK, repository),
                statement!(ENTRIES, repository, ids.clone()),
                statement!(
                    "SELECT a.delivery, a.number FROM attempts a \
                     JOIN unnest($2::bigint[], $3::bigint[]) AS n (d, n) \
                     ON a.delivery = n.d AND a.number = n.n WHERE a.repository = $1",
                    repository,
                    ids.clone(),
                    numbers
                ),
                statement!(
                    "DELETE FROM claims WHERE repository = $1 AND sender = $2 \
                     AND delivery = ANY($3) RETURNING delivery",
                    repository,
                    sender,
                    ids.clone()
                ),
            ],
        )
        .await?;
    let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    let claimed = rows(3).iter().map(|found| row::number(found, 0));
    let claimed: HashSet<i64> = claimed.collect::<Result<_, _>>()?;
    let mut results = Results::default();
    for found in rows(1) {
        let (id, entry) = Entry::of(found)?;
        results.entries.insert(id, entry);
    }
    for found in rows(2) {
        let attempt = (row::number(found, 0)?, row::number(found, 1)?);
        results.logged.insert(attempt);
    }
    // Another sender may have taken over the others.
    for one in finished
        .iter()
        .filter(|one| claimed.contains(&one.delivery))
    {
        results.apply(one, key);
    }
    let statements = results.statements(repository)?;
    session.commit(statements).await?;
    Ok(())
}

impl<'a> Results<'a> {
    fn apply(&mut self, finish: &'a Finish, key: &FingerprintKey) {
        let attempt = &finish.attempt;
        let Some(entry) = self.entries.get_mut(&finish.delivery) else {
            return;
        };
        let number = i64::from(attempt.number);
        if !self.logged.insert((finish.delivery, number)) {
            return;
        }
        self.attempts.push(finish);
        let ended = attempt
            .at
            .saturating_add(attempt.duration)
            .unwrap_or(attempt.at);
        let is_outdated = entry.is_outdated(finish, key);
        let verdict = match finish.verdict {
            // The answer is for a request with old settings. The current settings may work.
            Verdict::Retry(_)
            | Verdict::RetryAsAsked(_)
            | Verdict::Repeat(_)
            | Verdict::SwitchOff
                if is_outdated =>
            {
                Verdict::Retry(ended)
            }
            verdict => verdict,
        };
        let is_redelivered = finish.n_redeliveries != entry.n_redeliveries
            && matches!(
                verdict,
                Verdict::Retry(_) | Verdict::RetryAsAsked(_) | Verdict::Repeat(_) | Verdict::Dead
            );
        let before = entry.state;
        let error = (finish.verdict != Verdict::Delivered).then(|| describe(attempt));
        entry.take(attempt, verdict, is_redelivered, ended, error.clone());
        if before == State::Pending && entry.state != State::Pending {
            let lane = (entry.webhook.clone(), entry.key.clone());
            self.left.add(lane, entry.deletes.clone());
        }
        let Some(error) = error else {
            return;
        };
        if verdict == Verdict::SwitchOff {
            let gone = (entry.webhook.clone(), error.clone(), ended);
            self.gone.push(gone);
        }
        let rests_until = finish.rests_until.filter(|_| !is_outdated);
        let before = self.failures.get(&entry.webhook);
        let rests_until = before
            .and_then(|before| before.rests_until)
            .max(rests_until);
        let failure = webhooks::Failure {
            at: ended,
            error,
            rests_until,
        };
        self.failures.insert(entry.webhook.clone(), failure);
    }

    fn statements(self, repository: i32) -> Result<Vec<Statement>, Fault> {
        let mut statements = Vec::new();
        if !self.attempts.is_empty() {
            statements.push(log(repository, &self.attempts)?);
        }
        let changed: Vec<(i64, Entry)> = self
            .entries
            .into_iter()
            .filter(|(_, entry)| entry.is_changed)
            .collect();
        if !changed.is_empty() {
            statements.push(update(repository, &changed));
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
    /// Changes the row by an attempt, given the changes that were made during the attempt.
    ///
    /// `is_redelivered` tells whether an operator redelivered the delivery meanwhile, so that the
    /// attempt has no effect on the state.
    fn take(
        &mut self,
        attempt: &AttemptLog,
        verdict: Verdict,
        is_redelivered: bool,
        ended: Timestamp,
        error: Option<String>,
    ) {
        let before = self.state;
        if !is_redelivered {
            self.state = match verdict {
                // The request arrived, even if the delivery was cancelled meanwhile.
                Verdict::Delivered => State::Delivered,
                Verdict::Dead if before == State::Pending => State::Dead,
                _ => before,
            };
        }
        self.is_changed = true;
        self.n_attempts = self.n_attempts.max(i64::from(attempt.number));
        self.last_status = attempt.status.map(i32::from);
        self.last_error = error.map(|error| row::storable(&error));
        if self.state != before {
            self.finished = Some(row::milliseconds(ended));
            return;
        }
        if is_redelivered {
            self.n_attempts_before = self.n_attempts;
            self.is_due_as_asked = false;
            return;
        }
        self.n_attempts_before = self
            .n_attempts_before
            .saturating_add(i64::from(matches!(verdict, Verdict::Repeat(_))));
        if let Some(at) = verdict.retry_at() {
            self.due = row::milliseconds_up(at);
        }
        self.is_due_as_asked = matches!(verdict, Verdict::RetryAsAsked(_));
    }
}

/// Writes the changed rows of deliveries.
fn update(repository: i32, changed: &[(i64, Entry)]) -> Statement {
    fn column<T>(rows: &[(i64, Entry)], value: impl Fn(&Entry) -> T) -> Vec<T> {
        rows.iter().map(|(_, entry)| value(entry)).collect()
    }
    let ids: Vec<i64> = changed.iter().map(|(id, _)| *id).collect();
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
        ids,
        column(changed, |entry| entry.state.as_str()),
        column(changed, |entry| entry.n_attempts),
        column(changed, |entry| entry.n_attempts_before),
        column(changed, |entry| entry.due),
        column(changed, |entry| entry.is_due_as_asked),
        column(changed, |entry| entry.finished),
        column(changed, |entry| entry.last_status),
        column(changed, |entry| entry.last_error.clone()),
    )
}

fn describe(attempt: &AttemptLog) -> String {
    match (&attempt.error, attempt.status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("answered {status}"),
        (None, None) => "no answer".to_owned(),
    }
}

/// Inserts attempts.
fn log(repository: i32, finished: &[&Finish]) -> Result<Statement, Fault> {
    fn column<T>(rows: &[&Finish], value: impl Fn(&AttemptLog) -> T) -> Vec<T> {
        rows.iter().map(|one| value(&one.attempt)).collect()
    }
    let answers: Vec<answer::Stored<'_>> = finished
        .iter()
        .map(|one| answer::stored(&one.attempt.answer, one.verdict == Verdict::Delivered))
        .collect();
    let headers = finished
        .iter()
        .map(|one| row::to_json("the request's headers", &one.attempt.request_headers))
        .collect::<Result<Vec<String>, Fault>>()?;
    let milliseconds = |attempt: &AttemptLog| row::duration(attempt.duration);
    let bodies: Vec<Vec<u8>> = answers.iter().map(|answer| answer.bytes.to_vec()).collect();
    let sizes: Vec<Option<i64>> = answers.iter().map(|answer| answer.size).collect();
    Ok(statement!(
        "INSERT INTO attempts (repository, delivery, number, at_ms, duration_ms, status, error, \
         request_headers, answer, answer_size) SELECT $1::int, * \
         FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[], \
         $7::text[], $8::text[], $9::bytea[], $10::bigint[]) ON CONFLICT DO NOTHING",
        repository,
        finished
            .iter()
            .map(|one| one.delivery)
            .collect::<Vec<i64>>(),
        column(finished, |attempt| i64::from(attempt.number)),
        column(finished, |attempt| row::milliseconds(attempt.at)),
        column(finished, milliseconds),
        column(finished, |attempt| attempt.status.map(i32::from)),
        column(finished, |attempt| attempt
            .error
            .as_deref()
            .map(row::storable)),
        headers,
        bodies,
        sizes,
    ))
}

/// Makes deliveries due now if their due time was set before the clock was set back.
///
/// Otherwise they would be late by as much as the clock was set back.
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

/// Makes failed deliveries due now, because they failed with the old settings.
pub(super) fn retry_now(repository: i32, webhook: &str, now: i64) -> Statement {
    statement!(
        "UPDATE deliveries SET due_ms = $3, is_due_as_asked = FALSE WHERE repository = $1 \
         AND webhook = $2 AND state = 'pending' AND due_ms > $3 AND n_attempts > 0",
        repository,
        webhook.to_owned(),
        now
    )
}

/// Makes the deliveries due that the receiver deferred (`Retry-After`).
pub(super) fn retry_deferred(repository: i32, webhook: &str) -> Statement {
    statement!(
        "UPDATE deliveries SET due_ms = least(due_ms, waiting_ms), is_due_as_asked = FALSE \
         WHERE repository = $1 AND webhook = $2 AND state = 'pending' AND is_due_as_asked",
        repository,
        webhook.to_owned()
    )
}
