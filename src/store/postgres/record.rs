//! Records a batch, usually in two round trips.
//!
//! Constraint: a [`Batch`] is recorded completely or not at all. The first round trip locks the
//! repository and reads the rows that the batch depends on ([`Facts`]). Then [`NewRows`] computes
//! the new rows in memory. The last round trip writes them and commits. In between, more round
//! trips may look up [`EventIds`]. Until the commit, the lock keeps other transactions from
//! changing or removing the rows that were read.

use super::doubt::Doubt;
use super::event_ids::EventIds;
use super::facts::Facts;
use super::lanes;
use super::new_rows::NewRows;
use super::session::{LOCK_AS_HOLDER, Session, statement};
use crate::domain::project::ProjectKey;
use crate::store::batch::{Batch, Committed, NewEvent};
use crate::store::error::Fault;
use crate::store::payload::Given;

/// A batch to record, with its payloads and the state of the process.
pub(super) struct Recording<'a> {
    pub(super) repository: i32,
    pub(super) epoch: i64,
    pub(super) batch: &'a Batch,
    pub(super) payloads: &'a [Given],
    /// The repetition of the event ids that [`Facts`] looks up.
    ///
    /// It is usually the lowest repetition for new ids.
    pub(super) repetition: u32,
}

pub(super) struct Outcome {
    pub(super) committed: Committed,
    pub(super) repetition: u32,
}

impl Recording<'_> {
    /// Records the batch.
    ///
    /// First finds out whether the earlier batch in `doubt` was recorded. If the commit fails
    /// because the server is unreachable, puts this batch into `doubt`.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        doubt: &mut Doubt,
    ) -> Result<Outcome, Fault> {
        let moves: Vec<(ProjectKey, ProjectKey)> = self
            .batch
            .changes
            .iter()
            .filter_map(|change| Some((change.moved_from.clone()?, change.key.clone())))
            .collect();
        let facts = self.read(session, &moves).await?;
        doubt.resolve(facts.last_batch.as_ref());
        let changes = self.batch.changes.iter();
        let new: Vec<&NewEvent> = changes
            .flat_map(|change| change.events.iter().map(move |new| (change, new)))
            .filter(|(change, new)| doubt.recorded(change, new).is_none())
            .map(|(_, new)| new)
            .collect();
        let asked = self.repetition;
        let ids = EventIds::find(session, self.repository, &new, &facts, asked).await?;
        let rows = NewRows::compute(self, facts, ids, doubt)?;
        let (statements, pending) = rows.finish(&moves)?;
        match session.commit(statements).await {
            Err(fault @ Fault::Unreachable(_)) => {
                doubt.open(pending.mark, pending.events);
                Err(fault)
            }
            Err(fault) => Err(fault),
            Ok(_) => {
                doubt.forget(&pending.outcome.committed.events);
                Ok(pending.outcome)
            }
        }
    }

    /// Begins the transaction, locks the repository, moves deliveries, and reads facts.
    async fn read(
        &self,
        session: &mut Session,
        moves: &[(ProjectKey, ProjectKey)],
    ) -> Result<Facts, Fault> {
        let mut statements = vec![statement!(LOCK_AS_HOLDER, self.repository, self.epoch)];
        if !moves.is_empty() {
            statements.extend(lanes::move_all(self.repository, moves));
        }
        let n_before = statements.len();
        statements.extend(Facts::statements(self));
        let mut answers = session.begin("BEGIN", statements).await?;
        let read = answers.split_off(n_before);
        // The last statement of the moves returns the listeners of the former keys.
        let arriving = if moves.is_empty() {
            Vec::new()
        } else {
            answers.pop().unwrap_or_default()
        };
        let lock = answers.first().and_then(|rows| rows.first());
        let lock = lock.ok_or(Fault::Fenced)?;
        Facts::of(lock, &arriving, moves, &read)
    }
}
