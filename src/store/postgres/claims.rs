//! Claims due deliveries for this process.
//!
//! Constraint: the cost of a claim must not depend on the number of pending deliveries. So an index
//! finds the heads of [`lanes`](super::lanes), the only deliveries that may be claimed. One
//! transaction of one round trip selects heads and claims them. If it finds fewer heads than it may
//! claim, another round trip reads the next due time. A large payload is the only payload of its
//! claim, and is read [in pieces](super::payloads) afterwards.
//!
//! Senders claim at the same time, usually without waiting for each other: see
//! [`session`](super::session). The commit of a claim does not wait for a disk or a replica. So a
//! crash of the server may undo the claim of a delivery that was already sent. The delivery is then
//! sent again, as after a crash of the sender.

use std::collections::HashSet;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::session::{LOCK_SHARED, Session, Statement, UNHURRIED, statement};
use super::{payloads, row};
use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::store::delivery::{Claim, Claims, Unreadable};
use crate::store::error::Fault;
use crate::store::payload;

/// A claim ends when the payloads of its deliveries reach this total size in bytes.
///
/// The payload of the last delivery may exceed this size.
const CLAIM_BYTES: i64 = 1024 * 1024;

/// The maximum size of the compressed payloads in the answer to a claim, in bytes.
///
/// Over a slow link, a larger answer could exceed the time limit of a statement.
const ANSWER_BYTES: i64 = payloads::PIECE as i64;

/// Selects the heads of a webhook's lanes that this sender may claim.
///
/// The values `$1` to `$5` are the repository, the sender, the webhook, and the organizations and
/// projects to leave out.
///
/// `OFFSET 0` makes the server read heads in the order of their index until it has enough.
/// Otherwise it might first join all heads with all claims.
///
/// The sender may claim a head again that it has already claimed. But it may not claim a head while
/// it has a claim of another delivery in the lane. For example, such a claim remains if an operator
/// cancels a delivery during its attempt. Usually `$4` and `$5` exclude the lane then. But if the
/// project was renamed during the attempt, these values contain its former key.
macro_rules! free_heads {
    () => {
        "FROM deliveries d WHERE d.repository = $1 AND d.webhook = $3 AND d.is_head \
         AND (d.organization, d.project) NOT IN \
         (SELECT o, p FROM unnest($4::text[], $5::text[]) AS x (o, p)) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.repository = $1 AND c.webhook = $3 \
         AND c.organization = d.organization AND c.project = d.project \
         AND (c.sender <> $2 OR c.delivery <> d.id) OFFSET 0) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.repository = $1 AND c.delivery = d.id \
         AND c.sender <> $2 OFFSET 0) \
         AND NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.repository = $1 AND w.name = $3 \
         AND (w.off_cause IS NOT NULL OR w.sole_sender <> $2)) "
    };
}

/// Selects and claims due heads of a webhook's lanes, the longest overdue first.
///
/// It claims a head only if the payloads before it have less than [`CLAIM_BYTES`] bytes in total,
/// and if all payloads up to that of the head fit into the answer. It claims the first head with a
/// payload in any case. If this payload does not fit, the row lacks it.
const CLAIM: &str = concat!(
    "WITH heads AS MATERIALIZED (SELECT d.* ",
    free_heads!(),
    "AND d.due_ms <= $6 AND EXISTS (SELECT 1 FROM senders s WHERE s.id = $2) \
     AND NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.repository = $1 AND w.name = $3 \
     AND w.rests_until_ms > $6) \
     ORDER BY d.due_ms, d.id LIMIT $7 FOR UPDATE OF d SKIP LOCKED), \
     sized AS (SELECT h.*, coalesce(sum(p.size) OVER (ORDER BY h.due_ms, h.id \
     ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS before, \
     coalesce(sum(length(p.compressed)) OVER (ORDER BY h.due_ms, h.id \
     ROWS UNBOUNDED PRECEDING), 0) <= $9::bigint AS fits FROM heads h \
     LEFT JOIN events e ON e.repository = $1 AND e.sequence = h.event \
     LEFT JOIN payloads p ON p.repository = $1 AND p.hash = e.payload), \
     claimed AS (INSERT INTO claims AS c \
     (repository, delivery, webhook, organization, project, sender) \
     SELECT repository, id, webhook, organization, project, $2 FROM sized \
     WHERE before < $8 AND (fits OR before = 0) \
     ON CONFLICT (repository, delivery) DO UPDATE SET sender = excluded.sender \
     WHERE c.sender = excluded.sender RETURNING delivery) \
     SELECT h.id, h.organization, h.project, h.n_attempts, h.n_attempts_before, h.origin, \
     h.n_redeliveries, h.event, p.size, CASE WHEN h.fits THEN p.compressed END, e.id, e.kind, e.organization, e.project, \
     e.origin, e.occurred_ns, e.parameters, e.explanation, e.payload \
     FROM claimed c JOIN sized h ON h.id = c.delivery \
     LEFT JOIN events e ON e.repository = $1 AND e.sequence = h.event \
     LEFT JOIN payloads p ON p.repository = $1 AND p.hash = e.payload \
     ORDER BY h.due_ms, h.id"
);

/// The index of the first column of the event in [`CLAIM`].
const EVENT_COLUMN: usize = 10;

/// The index of the hash of the event's payload in [`CLAIM`].
const HASH_COLUMN: usize = EVENT_COLUMN + row::N_EVENT_COLUMNS - 1;

/// Reads the earliest due time of the free heads that are not among the ids `$6`.
///
/// If the receiver requested a pause of the webhook, no due time is before its end.
const NEXT: &str = concat!(
    "SELECT greatest(d.due_ms, (SELECT w.rests_until_ms FROM webhooks w \
     WHERE w.repository = $1 AND w.name = $3)) ",
    free_heads!(),
    "AND d.id <> ALL ($6) ORDER BY d.due_ms, d.id LIMIT 1"
);

/// The arguments of a claim.
pub(super) struct Claiming {
    pub(super) repository: i32,
    pub(super) sender: i64,
    pub(super) webhook: String,
    pub(super) now: Timestamp,
    pub(super) limit: usize,
    pub(super) excluding: HashSet<ProjectKey>,
}

impl Claiming {
    /// Claims due heads of lanes, the longest overdue first.
    ///
    /// Returns `None` if another process removed this sender's lease.
    pub(super) async fn claim(&self, session: &mut Session) -> Result<Option<Claims>, Fault> {
        let (organizations, projects) = row::arrays(&self.excluding);
        let answers = session
            .transact(vec![
                statement!(UNHURRIED),
                statement!(LOCK_SHARED, self.repository),
                statement!("SELECT 1 FROM senders WHERE id = $1", self.sender),
                statement!(
                    CLAIM,
                    self.repository,
                    self.sender,
                    self.webhook.clone(),
                    organizations,
                    projects,
                    row::milliseconds(self.now),
                    row::limit(self.limit),
                    CLAIM_BYTES,
                    ANSWER_BYTES,
                ),
            ])
            .await?;
        let rows = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
        if rows(2).is_empty() {
            return Ok(None);
        }
        let mut claims = Claims::default();
        for head in rows(3) {
            let large = self.large(session, head).await?;
            claim(head, large.as_deref(), &mut claims)?;
        }
        claims.next_due = match rows(3).len() < self.limit {
            true => {
                let claimed = rows(3).iter().map(|head| row::number(head, 0));
                let claimed = claimed.collect::<Result<Vec<i64>, Fault>>()?;
                self.next_due(session, claimed).await?
            }
            // The limit is reached, so more deliveries may be due.
            false => Some(self.now),
        };
        Ok(Some(claims))
    }

    /// Reads the compressed payload if it is too large for the row of [`CLAIM`].
    async fn large(&self, session: &mut Session, head: &Row) -> Result<Option<Vec<u8>>, Fault> {
        let (size, compressed): (Option<i64>, Option<&[u8]>) = (head.try_get(8)?, head.try_get(9)?);
        if size.is_none() || compressed.is_some() {
            return Ok(None);
        }
        let hash: Vec<u8> = head.try_get(HASH_COLUMN)?;
        payloads::read(session, self.repository, hash).await
    }

    /// Reads the earliest due time of the free heads that are not among `claimed`.
    pub(super) async fn next_due(
        &self,
        session: &mut Session,
        claimed: Vec<i64>,
    ) -> Result<Option<Timestamp>, Fault> {
        let (organizations, projects) = row::arrays(&self.excluding);
        let rows = session
            .rows(statement!(
                NEXT,
                self.repository,
                self.sender,
                self.webhook.clone(),
                organizations,
                projects,
                claimed,
            ))
            .await?;
        let found = rows
            .first()
            .map(|found| row::number(found, 0))
            .transpose()?;
        Ok(found.map(row::from_milliseconds))
    }
}

/// Releases this sender's claims of a webhook, except those in `keeping`.
///
/// This includes claims that the sender does not know, because the answer of the database was lost.
pub(super) fn release(
    repository: i32,
    sender: i64,
    webhook: &str,
    keeping: HashSet<i64>,
) -> Vec<Statement> {
    let sql = "DELETE FROM claims WHERE repository = $1 AND sender = $2 AND webhook = $3 \
               AND delivery <> ALL ($4)";
    let keeping: Vec<i64> = keeping.into_iter().collect();
    vec![
        statement!(UNHURRIED),
        statement!(LOCK_SHARED, repository),
        statement!(sql, repository, sender, webhook.to_owned(), keeping),
    ]
}

/// Adds the delivery of a row of [`CLAIM`] to `claims`.
///
/// `large` is the compressed payload if the row lacks it. An unreadable delivery is no error: it is
/// added to `claims` as unreadable.
fn claim(head: &Row, large: Option<&[u8]>, claims: &mut Claims) -> Result<(), Fault> {
    let delivery = row::number(head, 0)?;
    let attempt = row::small(head, 3)?.saturating_add(1);
    let n_redeliveries = row::small(head, 6)?;
    let key = row::key(head, 1)?;
    let whole = || -> Result<Claim, Fault> {
        let id: Option<&str> = head.try_get(EVENT_COLUMN)?;
        if id.is_none() {
            return Err(Fault::Undecodable {
                what: format!("the event {}", row::number(head, 7)?),
                reason: "the event is missing".to_owned(),
            });
        }
        let event = row::event(head, EVENT_COLUMN)?;
        let (size, compressed): (Option<i64>, Option<&[u8]>) = (head.try_get(8)?, head.try_get(9)?);
        let stored = size
            .zip(compressed.or(large))
            .ok_or_else(|| Fault::MissingPayload {
                hash: event.payload,
                needed_by: format!("the event {}", event.id),
            })?;
        let payload = payload::restore(&event.payload, stored.0, stored.1)?;
        let origin = row::text(head, 5)?;
        Ok(Claim {
            delivery,
            attempt,
            scheduled_attempt: attempt.saturating_sub(row::small(head, 4)?).max(1),
            n_redeliveries,
            origin: row::word("the delivery's origin", &origin, Origin::from_word)?,
            key: key.clone(),
            event,
            payload,
        })
    };
    claims.add(whole(), |fault| Unreadable {
        delivery,
        attempt,
        key,
        n_redeliveries,
        fault,
    })
}
