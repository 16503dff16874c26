//! Maintains lanes: the pending deliveries of one project to one webhook.
//!
//! Constraint: deliveries are claimed in the order that [`Delivering`] promises. The column
//! `is_head` marks the head of each lane. So each change of a delivery's state or lane updates this
//! column. A lane has no head while its oldest delivery waits for a delete in another lane. When
//! the delete is no longer pending, the lanes of waiting deliveries are found by the project id in
//! the rows. Such a lane gets a head, unless its oldest delivery waits for another delete.
//!
//! [`Delivering`]: crate::store::contract::Delivering

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::{row, webhooks};
use crate::domain::delivery::State;
use crate::domain::project::ProjectKey;
use crate::store::error::Fault;

/// Selects the oldest pending delivery of a lane.
pub(super) const OLDEST_IN_LANE: &str = "SELECT id FROM deliveries \
     WHERE webhook = ?1 AND organization = ?2 AND project = ?3 AND state = 'pending' \
     ORDER BY event LIMIT 1";

/// Selects pending deletes with this project id in other lanes of the webhook.
pub(super) const DELETES_ELSEWHERE: &str = "SELECT 1 FROM deliveries \
     WHERE webhook = ?1 AND project_id = ?2 AND is_delete = 1 AND state = 'pending' \
     AND NOT (organization = ?3 AND project = ?4)";

/// The condition that the delivery `waiting` waits for an earlier delete.
const WAITS_FOR_A_DELETE: &str = "(waiting.project_id IS NOT NULL AND NOT waiting.is_delete \
     AND EXISTS (SELECT 1 FROM deliveries d WHERE d.webhook = waiting.webhook \
     AND d.project_id = waiting.project_id AND d.is_delete = 1 AND d.state = 'pending' \
     AND d.event < waiting.event))";

/// The lane and the state of a delivery.
pub(super) struct LaneEntry {
    pub(super) webhook: String,
    pub(super) key: ProjectKey,
    pub(super) state: State,
    pub(super) n_redeliveries: u32,
    /// The hash of the project id, if the delivery is a delete.
    deletes: Option<Vec<u8>>,
}

impl LaneEntry {
    /// Reads the entry of a delivery. `None` if it was removed or is not pending.
    pub(super) fn pending(connection: &Connection, delivery: i64) -> Result<Option<Self>, Fault> {
        let found = Self::of(connection, delivery)?;
        Ok(found.filter(|lane| lane.state == State::Pending))
    }

    pub(super) fn of(connection: &Connection, delivery: i64) -> Result<Option<Self>, Fault> {
        let mut statement = connection.prepare_cached(
            "SELECT webhook, organization, project, state, iif(is_delete, project_id, NULL), \
             n_redeliveries FROM deliveries WHERE id = ?1",
        )?;
        let mut rows = statement.query([delivery])?;
        let Some(found) = rows.next()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            webhook: found.get(0)?,
            key: ProjectKey::new(found.get::<_, String>(1)?, found.get::<_, String>(2)?),
            state: row::state("the delivery's state", &found.get::<_, String>(3)?)?,
            deletes: found.get(4)?,
            n_redeliveries: found.get(5)?,
        }))
    }
}

/// Updates the heads of lanes after a delivery stopped being pending.
///
/// The oldest pending delivery of its lane becomes the head. If the delivery was a delete, other
/// lanes whose oldest delivery waited for it also get a head. A delivery that waits for another
/// delete does not become a head.
pub(super) fn left(connection: &Connection, before: &LaneEntry) -> Result<(), Fault> {
    promote(connection, &before.webhook, &before.key)?;
    let Some(project_id) = &before.deletes else {
        return Ok(());
    };
    let mut waiting = connection.prepare_cached(WAITING_FOR_A_DELETE)?;
    let lanes: BTreeSet<ProjectKey> = waiting
        .query_map(params![before.webhook, project_id], |row| {
            Ok(ProjectKey::new(
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for lane in &lanes {
        promote(connection, &before.webhook, lane)?;
    }
    Ok(())
}

/// Selects lanes with a delivery that may wait for deletes with this project id.
pub(super) const WAITING_FOR_A_DELETE: &str = "SELECT organization, project \
     FROM deliveries WHERE webhook = ?1 AND project_id = ?2 AND is_delete = 0 \
     AND state = 'pending'";

/// Makes a lane's oldest pending delivery the head, unless it waits for a delete.
fn promote(connection: &Connection, webhook: &str, key: &ProjectKey) -> Result<(), Fault> {
    connection
        .prepare_cached(&format!(
            "UPDATE deliveries AS waiting SET is_head = 1 WHERE id = ({OLDEST_IN_LANE}) \
             AND NOT is_head AND NOT {WAITS_FOR_A_DELETE}"
        ))?
        .execute([webhook, &key.organization, &key.project])?;
    Ok(())
}

/// The project of a delivery's event.
pub(super) struct ProjectNow {
    /// The current key of the project, which may have moved since the event.
    key: ProjectKey,
    /// The hash of the project id. `None` if the event has no readable id.
    project_id: Option<Vec<u8>>,
}

/// Makes a delivery pending and due now, in the lane of its project.
///
/// The row gets the project id, because the delivery may have to wait for a delete. If the delivery
/// is itself a delete, later deliveries may have to wait for it.
pub(super) fn make_pending(
    connection: &Connection,
    delivery: i64,
    project: &ProjectNow,
    now: i64,
) -> Result<(), Fault> {
    let Some(mut lane) = LaneEntry::of(connection, delivery)? else {
        return Ok(());
    };
    if lane.state != State::Pending {
        lane.key = project.key.clone();
    }
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = 'pending', is_head = 0, organization = ?3, project = ?4, \
             project_id = coalesce(project_id, ?5), \
             origin = CASE WHEN state <> 'pending' OR n_attempts > 0 \
             THEN 'redelivery' ELSE origin END, \
             waiting_ms = CASE WHEN state <> 'pending' THEN ?2 ELSE waiting_ms END, \
             n_attempts_before = n_attempts, \
             n_redeliveries = n_redeliveries + 1, \
             due_ms = ?2, is_due_as_asked = 0, finished_ms = NULL WHERE id = ?1",
        )?
        .execute(params![
            delivery,
            now,
            lane.key.organization,
            lane.key.project,
            project.project_id,
        ])?;
    connection
        .prepare_cached(HEADS_BEHIND_A_DELETE)?
        .execute([delivery])?;
    enter_lane(connection, delivery, &lane)
}

/// Clears `is_head` of later deliveries that now wait for this delivery, a delete.
const HEADS_BEHIND_A_DELETE: &str = "UPDATE deliveries SET is_head = 0 WHERE id IN \
     (SELECT waiting.id FROM deliveries d JOIN deliveries waiting \
     ON waiting.webhook = d.webhook AND waiting.project_id = d.project_id \
     AND waiting.is_delete = 0 AND waiting.state = 'pending' AND waiting.event > d.event \
     WHERE d.id = ?1 AND d.is_delete) AND is_head";

/// Updates the head of a lane after this delivery became pending there.
///
/// If a newer delivery was the head, it no longer is.
fn enter_lane(connection: &Connection, delivery: i64, lane: &LaneEntry) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET is_head = 0 WHERE is_head AND id = \
             (SELECT id FROM deliveries WHERE webhook = ?1 AND organization = ?2 AND project = ?3 \
              AND state = 'pending' \
              AND event > (SELECT event FROM deliveries WHERE id = ?4) ORDER BY event LIMIT 1)",
        )?
        .execute(params![
            lane.webhook,
            lane.key.organization,
            lane.key.project,
            delivery
        ])?;
    promote(connection, &lane.webhook, &lane.key)
}

/// Moves the deliveries of projects to the lanes of their new keys.
///
/// Each pair has the old and the new key. Projects may exchange their keys. Dead and cancelled
/// deliveries move too. A delivered delivery moves only when it is redelivered ([`present`]),
/// because there may be too many delivered ones.
pub(super) fn move_all(
    connection: &Connection,
    moves: &[(&ProjectKey, &ProjectKey)],
) -> Result<(), Fault> {
    if moves.is_empty() {
        return Ok(());
    }
    let mut moved: Vec<(i64, &ProjectKey)> = Vec::new();
    let mut changed: BTreeSet<(String, &ProjectKey)> = BTreeSet::new();
    for webhook in webhooks::names(connection)? {
        for (from, to) in moves {
            let pending = ids_in(connection, PENDING_IN_LANE, &webhook, from)?;
            if !pending.is_empty() {
                changed.insert((webhook.clone(), to));
            }
            let undelivered = ids_in(connection, UNDELIVERED_OF, &webhook, from)?;
            let all = pending.into_iter().chain(undelivered);
            moved.extend(all.map(|id| (id, *to)));
        }
    }
    // The target lanes lose their heads first, because an arriving delivery may be older than the
    // head.
    for (webhook, to) in &changed {
        connection
            .prepare_cached(&format!(
                "UPDATE deliveries SET is_head = 0 WHERE id = ({OLDEST_IN_LANE})"
            ))?
            .execute([webhook, &to.organization, &to.project])?;
    }
    remember(connection, moves)?;
    for (id, to) in &moved {
        connection
            .prepare_cached(
                "UPDATE deliveries SET organization = ?2, project = ?3, is_head = 0 WHERE id = ?1",
            )?
            .execute(params![id, to.organization, to.project])?;
    }
    for (webhook, to) in &changed {
        promote(connection, webhook, to)?;
    }
    Ok(())
}

/// Selects the pending deliveries of a lane.
pub(super) const PENDING_IN_LANE: &str = "SELECT id FROM deliveries \
     WHERE webhook = ?1 AND organization = ?2 AND project = ?3 AND state = 'pending'";

/// Selects the dead and cancelled deliveries of a project.
pub(super) const UNDELIVERED_OF: &str = "SELECT id FROM deliveries \
     WHERE webhook = ?1 AND organization = ?2 AND project = ?3 \
     AND (state = 'dead' OR state = 'cancelled')";

fn ids_in(
    connection: &Connection,
    sql: &str,
    webhook: &str,
    key: &ProjectKey,
) -> Result<Vec<i64>, Fault> {
    let ids = connection
        .prepare_cached(sql)?
        .query_map([webhook, &key.organization, &key.project], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(ids)
}

/// Stores moves, to find the lanes of redelivered and replayed events.
fn remember(connection: &Connection, moves: &[(&ProjectKey, &ProjectKey)]) -> Result<(), Fault> {
    let (batch, last_event): (i64, i64) = connection
        .prepare_cached(NEXT_MOVES)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (from, to) in moves {
        connection
            .prepare_cached(
                "INSERT INTO moves (batch, organization, project, last_event, to_organization, \
                 to_project) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                batch,
                from.organization,
                from.project,
                last_event,
                to.organization,
                to.project,
            ])?;
    }
    Ok(())
}

/// Selects the number of the next batch of moves, and the last event.
const NEXT_MOVES: &str = "SELECT 1 + coalesce((SELECT max(batch) FROM moves), 0), \
     coalesce((SELECT max(sequence) FROM events), 0)";

/// Returns the current key of an event's project, after all later moves.
pub(super) fn lane_of(
    connection: &Connection,
    sequence: i64,
    mut key: ProjectKey,
) -> Result<ProjectKey, Fault> {
    let mut after = 0_i64;
    let mut next_move = connection.prepare_cached(
        "SELECT batch, to_organization, to_project FROM moves \
         WHERE organization = ?1 AND project = ?2 AND batch > ?3 AND last_event >= ?4 \
         ORDER BY batch LIMIT 1",
    )?;
    loop {
        let mut rows = next_move.query(params![key.organization, key.project, after, sequence])?;
        let Some(found) = rows.next()? else {
            return Ok(key);
        };
        after = found.get(0)?;
        key = ProjectKey::new(found.get::<_, String>(1)?, found.get::<_, String>(2)?);
    }
}

/// Reads the project of a delivery's event. `None` if the delivery was removed.
pub(super) fn present(connection: &Connection, delivery: i64) -> Result<Option<ProjectNow>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT e.sequence, e.organization, e.project, e.parameters FROM deliveries d \
         JOIN events e ON e.sequence = d.event WHERE d.id = ?1",
    )?;
    let mut rows = statement.query([delivery])?;
    let Some(found) = rows.next()? else {
        return Ok(None);
    };
    let then = ProjectKey::new(found.get::<_, String>(1)?, found.get::<_, String>(2)?);
    let project_id = row::project_id_in(&then, &found.get::<_, String>(3)?);
    let key = lane_of(connection, found.get(0)?, then)?;
    Ok(Some(ProjectNow { key, project_id }))
}

/// Removes moves that are older than all events.
pub(super) fn forget_moves(connection: &Connection) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "DELETE FROM moves WHERE last_event < \
             coalesce((SELECT min(sequence) FROM events), 9223372036854775807)",
        )?
        .execute([])?;
    Ok(())
}
