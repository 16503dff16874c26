//! Maintains lanes: the pending deliveries of one project to one webhook.
//!
//! Constraint: deliveries are sent in the order that [`Delivering`] promises. So only the *head* of
//! a lane may be sent: its oldest delivery, with the column `is_head` set. A transaction that
//! changes the state or the lane of deliveries also updates `is_head`, for all changed lanes at
//! once. A lane has no head while its oldest delivery waits for a delete in another lane.
//!
//! [`Delivering`]: crate::store::contract::Delivering

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::row;
use super::session::{Statement, statement};
use crate::domain::project::ProjectKey;
use crate::store::error::Fault;

/// The lane of a delivery: the webhook and the project.
pub(super) type Lane = (String, ProjectKey);

/// The condition that the delivery `w` waits for an older delete of its project id.
const WAITS_FOR_A_DELETE: &str = "(w.project_id IS NOT NULL AND NOT w.is_delete \
     AND EXISTS (SELECT 1 FROM deliveries d WHERE d.repository = w.repository \
     AND d.webhook = w.webhook AND d.project_id = w.project_id AND d.is_delete \
     AND d.state = 'pending' AND d.event < w.event))";

/// The common table expression `lanes`: the lanes in the arrays `$2` to `$4`.
const GIVEN: &str = "lanes AS (SELECT DISTINCT webhook, organization, project \
     FROM unnest($2::text[], $3::text[], $4::text[]) AS l (webhook, organization, project))";

/// The common table expression `oldest`: the oldest delivery of each lane.
const OLDEST: &str = "oldest AS (SELECT h.id FROM lanes l CROSS JOIN LATERAL \
     (SELECT d.id FROM deliveries d WHERE d.repository = $1 AND d.webhook = l.webhook \
     AND d.organization = l.organization AND d.project = l.project AND d.state = 'pending' \
     ORDER BY d.event LIMIT 1) h)";

/// Splits lanes into arrays of webhooks, organizations and projects.
pub(super) fn arrays<'a>(
    lanes: impl IntoIterator<Item = &'a Lane>,
) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut arrays = (Vec::new(), Vec::new(), Vec::new());
    for (webhook, key) in lanes {
        arrays.0.push(webhook.clone());
        arrays.1.push(key.organization.clone());
        arrays.2.push(key.project.clone());
    }
    arrays
}

/// Makes the oldest delivery of each lane the head, unless the delivery must wait.
///
/// It may have to wait for a delete in another lane.
pub(super) fn promote<'a>(repository: i32, lanes: impl IntoIterator<Item = &'a Lane>) -> Statement {
    let (webhooks, organizations, projects) = arrays(lanes);
    let sql = promote_sql(GIVEN);
    statement!(sql, repository, webhooks, organizations, projects)
}

fn promote_sql(lanes: &str) -> String {
    format!(
        "WITH {lanes}, {OLDEST} UPDATE deliveries w SET is_head = TRUE FROM oldest \
         WHERE w.repository = $1 AND w.id = oldest.id AND NOT w.is_head AND NOT {WAITS_FOR_A_DELETE}"
    )
}

/// Clears `is_head` of all deliveries in these lanes, except the oldest of each.
pub(super) fn demote<'a>(repository: i32, lanes: impl IntoIterator<Item = &'a Lane>) -> Statement {
    let (webhooks, organizations, projects) = arrays(lanes);
    let sql = demote_sql(GIVEN);
    statement!(sql, repository, webhooks, organizations, projects)
}

fn demote_sql(lanes: &str) -> String {
    format!(
        "WITH {lanes}, {OLDEST} UPDATE deliveries w SET is_head = FALSE FROM lanes l \
         WHERE w.repository = $1 AND w.webhook = l.webhook AND w.organization = l.organization \
         AND w.project = l.project AND w.is_head AND w.state = 'pending' \
         AND w.id NOT IN (SELECT id FROM oldest)"
    )
}

/// Clears `is_head` of all deliveries that wait for the deletes among `deliveries`.
///
/// A waiting delivery has the same webhook and project id as the delete, and a later event.
pub(super) fn demote_behind(repository: i32, deliveries: Vec<i64>) -> Statement {
    statement!(
        "UPDATE deliveries w SET is_head = FALSE FROM deliveries d \
         WHERE d.repository = $1 AND d.id = ANY($2) AND d.is_delete \
         AND w.repository = $1 AND w.webhook = d.webhook AND w.project_id = d.project_id \
         AND NOT w.is_delete AND w.state = 'pending' AND w.event > d.event AND w.is_head",
        repository,
        deliveries
    )
}

/// Sets the heads of the lanes that may have waited for these deletes.
///
/// `deletes` has the webhook and the hash of the project id of each delete.
pub(super) fn promote_after(repository: i32, deletes: &[(String, Vec<u8>)]) -> Statement {
    let (webhooks, ids): (Vec<String>, Vec<Vec<u8>>) = deletes.iter().cloned().unzip();
    let sql = promote_sql(WAITING);
    statement!(sql, repository, webhooks, ids)
}

/// The common table expression `lanes`: lanes that may wait for deletes.
///
/// The arrays `$2` and `$3` have the webhooks and the hashed project ids of the deletes.
const WAITING: &str = "lanes AS (SELECT DISTINCT w.webhook, w.organization, w.project \
     FROM deliveries w JOIN unnest($2::text[], $3::bytea[]) AS g (webhook, project_id) \
     ON w.webhook = g.webhook AND w.project_id = g.project_id \
     WHERE w.repository = $1 AND NOT w.is_delete AND w.state = 'pending')";

/// Deliveries that are no longer pending: their lanes, and the deletes among them.
#[derive(Default)]
pub(super) struct Left {
    lanes: BTreeSet<Lane>,
    deletes: Vec<(String, Vec<u8>)>,
}

impl Left {
    pub(super) fn add(&mut self, lane: Lane, delete: Option<Vec<u8>>) {
        if let Some(project_id) = delete {
            self.deletes.push((lane.0.clone(), project_id));
        }
        self.lanes.insert(lane);
    }

    pub(super) fn has_deletes(&self) -> bool {
        !self.deletes.is_empty()
    }

    /// Adds the statements that set the next heads of the lanes.
    ///
    /// Earlier statements must have stored that the deliveries are no longer pending.
    pub(super) fn promote(&self, repository: i32, statements: &mut Vec<Statement>) {
        if !self.lanes.is_empty() {
            statements.push(promote(repository, &self.lanes));
        }
        if !self.deletes.is_empty() {
            statements.push(promote_after(repository, &self.deletes));
        }
    }
}

/// Moves deliveries to the lanes of the projects' new keys, and stores the moves.
///
/// Deliveries in the state `delivered` keep the former key. Each pair has the former and the new
/// key of a project. Two projects may exchange their keys. The last statement deletes the listeners
/// of the former keys and returns the deleted rows.
pub(super) fn move_all(repository: i32, moves: &[(ProjectKey, ProjectKey)]) -> Vec<Statement> {
    let (from_organizations, from_projects) = row::arrays(moves.iter().map(|(from, _)| from));
    let (to_organizations, to_projects) = row::arrays(moves.iter().map(|(_, to)| to));
    let all = |sql: &'static str| {
        statement!(
            sql,
            repository,
            from_organizations.clone(),
            from_projects.clone(),
            to_organizations.clone(),
            to_projects.clone(),
        )
    };
    vec![
        all(REMEMBER),
        all(MOVE),
        all(MOVE_CLAIMS),
        statement!(
            demote_sql(OF_PROJECTS),
            repository,
            to_organizations.clone(),
            to_projects.clone(),
        ),
        statement!(
            promote_sql(OF_PROJECTS),
            repository,
            to_organizations.clone(),
            to_projects.clone(),
        ),
        statement!(
            "DELETE FROM listeners l USING unnest($2::text[], $3::text[]) AS f (o, p) \
             WHERE l.repository = $1 AND l.organization = f.o AND l.project = f.p \
             RETURNING l.organization, l.project, l.webhook",
            repository,
            from_organizations.clone(),
            from_projects.clone(),
        ),
    ]
}

/// The common table expression `lanes`: the lanes of the projects in `$2` and `$3`.
const OF_PROJECTS: &str = "lanes AS (SELECT DISTINCT d.webhook, d.organization, d.project \
     FROM deliveries d JOIN unnest($2::text[], $3::text[]) AS t (o, p) \
     ON d.organization = t.o AND d.project = t.p \
     WHERE d.repository = $1 AND d.state = 'pending')";

const REMEMBER: &str = "INSERT INTO moves (repository, batch, organization, project, last_event, \
     to_organization, to_project) SELECT $1::int, \
     1 + coalesce((SELECT max(batch) FROM moves WHERE repository = $1), 0), f.o, f.p, \
     (SELECT next_event - 1 FROM repositories WHERE id = $1), f.new_o, f.new_p \
     FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS f (o, p, new_o, new_p) \
     ON CONFLICT DO NOTHING";

const MOVE: &str = "UPDATE deliveries d SET organization = f.new_o, project = f.new_p, \
     is_head = FALSE FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) \
     AS f (o, p, new_o, new_p) WHERE d.repository = $1 AND d.organization = f.o \
     AND d.project = f.p AND d.state <> 'delivered'";

const MOVE_CLAIMS: &str = "UPDATE claims c SET organization = f.new_o, project = f.new_p \
     FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS f (o, p, new_o, new_p) \
     WHERE c.repository = $1 AND c.organization = f.o AND c.project = f.p";

/// The stored moves of projects in a repository, by former key, the oldest first.
///
/// Each move has the number of its batch, the last event before it, and the new key.
pub(super) struct Moves(BTreeMap<ProjectKey, Vec<(i64, i64, ProjectKey)>>);

impl Moves {
    pub(super) fn read(repository: i32) -> Statement {
        statement!(
            "SELECT organization, project, batch, last_event, to_organization, to_project \
             FROM moves WHERE repository = $1 ORDER BY batch",
            repository
        )
    }

    pub(super) fn of(rows: &[Row]) -> Result<Self, Fault> {
        let mut moves: BTreeMap<ProjectKey, Vec<_>> = BTreeMap::new();
        for found in rows {
            let to = (
                row::number(found, 2)?,
                row::number(found, 3)?,
                row::key(found, 4)?,
            );
            moves.entry(row::key(found, 0)?).or_default().push(to);
        }
        Ok(Self(moves))
    }

    /// Returns the present key of an event's project, after all moves since the event.
    pub(super) fn lane_of(&self, sequence: i64, mut key: ProjectKey) -> ProjectKey {
        let mut after = 0_i64;
        loop {
            let next = self.0.get(&key).and_then(|moves| {
                moves
                    .iter()
                    .find(|(batch, last, _)| *batch > after && *last >= sequence)
            });
            let Some((batch, _, to)) = next else {
                return key;
            };
            after = *batch;
            key = to.clone();
        }
    }
}
