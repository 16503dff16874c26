//! The work of a node in a turn: its lease, a step of the engine, and a delivery.

use std::rc::Rc;
use std::time::Duration;

use project_webhooks::domain::infer::{Removals, missing};
use project_webhooks::domain::lease::Request;
use project_webhooks::domain::moves::{Comparison, infer_all};
use project_webhooks::domain::project::{FileState, Identity};
use project_webhooks::domain::settle::Unresolved;
use project_webhooks::domain::shared_ids::Hold;
use project_webhooks::domain::vanished::Presence;

use super::Simulation;
use super::database::{Query, Round};
use super::node::{Node, Sending, Work};
use crate::infer::relocate;
use crate::world::{key, place};

impl Simulation {
    /// A node does what it can without waiting.
    pub fn turn(&mut self, index: usize) {
        let (now, fault) = (self.database.now, self.fault);
        let node = &mut self.nodes[index];
        if node.lease.is_none() || node.is_stopped {
            return;
        }
        node.read(now, fault);
        // It may have learned that another one took over.
        self.hang_up(index);
        let node = &mut self.nodes[index];
        let clock = node.clock(now);
        node.n_turns += 1;
        if node.n_turns.is_multiple_of(2)
            && let Some((_, request)) = node.next.take_if(|(at, _)| *at <= clock)
        {
            let ends = matches!(request, Request::GiveBack { .. });
            self.send(index, Query::Lease(request));
            if ends {
                self.nodes[index].kill();
                self.hang_up(index);
                return;
            }
        }
        self.work_on(index);
        self.send_on(index);
    }

    fn work_on(&mut self, index: usize) {
        let Some(epoch) = self.nodes[index].epoch() else {
            return;
        };
        match self.nodes[index].work.clone() {
            Work::Idle if !self.nodes[index].is_cut => {
                let round = self.observe(index);
                if !round.looks.is_empty() {
                    self.nodes[index].work = self.judge(index, round, epoch);
                }
            }
            Work::Observed(round) => {
                self.send(index, Query::Begin { epoch });
                self.nodes[index].work = Work::Beginning(round);
            }
            Work::Begun(round) => {
                let commit = Query::Commit {
                    round: Rc::clone(&round),
                };
                self.send(index, commit);
                self.nodes[index].work = Work::Committing(round);
            }
            Work::Idle | Work::Beginning(_) | Work::Committing(_) => {}
        }
    }

    /// Records the step, unless it changes nothing.
    fn judge(&mut self, index: usize, round: Round, epoch: i64) -> Work {
        let mut changes = round.looks.iter().zip(&round.changes);
        let is_changed = changes.any(|(look, change)| {
            look.recorded != change.inference.record || !change.inference.events.is_empty()
        });
        if is_changed {
            return Work::Observed(Rc::new(round));
        }
        if epoch == self.database.epoch {
            self.conclude(&round);
        }
        let now = self.database.now;
        self.nodes[index].observed(&round, now);
        Work::Idle
    }

    fn look(&self, index: usize, at: usize) -> Comparison {
        let node = &self.nodes[index];
        let recorded = self.database.recorded(at);
        let observed = self.world.observe(at);
        let missing = missing(&recorded, &observed);
        let now = node.clock(self.database.now);
        Comparison {
            key: key(at),
            removals: node.agenda.removals(&key(at), now, &missing),
            recorded,
            observed,
        }
    }

    /// The observations of due projects, and of those that may have moved to them.
    fn observe(&mut self, index: usize) -> Round {
        self.n_observations += 1;
        let n_defined = self.database.n_defined();
        let node = &mut self.nodes[index];
        let now = node.clock(self.database.now);
        if node.agenda.wave_ends_at().is_some_and(|at| at <= now) {
            node.agenda.end_wave(now, n_defined);
        }
        if node.agenda.held().is_some() {
            // An operator is quick.
            node.agenda.accept(now);
        }
        let due = node.agenda.due(now, 2);
        let mut looks: Vec<Comparison> = due
            .iter()
            .map(|due| self.look(index, place(&due.key)))
            .collect();
        let mut next = 0;
        while let Some(look) = looks.get(next) {
            next += 1;
            let is_removed = look.removals == Removals::Confirmed;
            let departed = look.recorded.definition.as_ref().filter(|_| is_removed);
            let wanted = [look.arrival(), departed].into_iter().flatten();
            let wanted: Vec<Identity> = wanted.map(FileState::identity).collect();
            for at in self.database.with_identities(&wanted) {
                if !looks.iter().any(|look| look.key == key(at)) {
                    looks.push(self.look(index, at));
                }
            }
        }
        let changes = infer_all(&looks, &relocate);
        Round {
            number: self.n_observations,
            world: self.world.clone(),
            looks,
            changes,
        }
    }

    fn send_on(&mut self, index: usize) {
        match self.nodes[index].sending {
            Sending::Idle => {
                self.send(index, Query::Claim);
                self.nodes[index].sending = Sending::Claiming;
            }
            Sending::Claimed(claim) => {
                self.database.receive(claim);
                self.nodes[index].sending = Sending::Sent(claim);
            }
            Sending::Sent(claim) => {
                self.send(index, Query::Finish(claim));
                self.nodes[index].sending = Sending::Finishing;
            }
            Sending::Claiming | Sending::Finishing => {}
        }
    }
}

impl Node {
    /// A step is concluded: the agenda learns what remains open.
    pub fn observed(&mut self, round: &Round, now: Duration) {
        let now = self.clock(now);
        for (look, change) in round.looks.iter().zip(&round.changes) {
            let open = Unresolved {
                missing: change.inference.missing.clone(),
                retry: look.observed.problems().any(|problem| problem.may_resolve),
                presence: Presence::of(&look.recorded, &change.inference.record, &look.observed),
                is_postponed: change.removed_with.is_some(),
                ..Unresolved::default()
            };
            self.agenda.observed(&look.key, now, open);
        }
        for change in &round.changes {
            if let Some(place) = &change.moves_to {
                self.agenda.confirm_after(&change.key, place);
            }
            if let Some(other) = &change.removed_with {
                self.agenda.confirm_with(&change.key, other, now);
            }
            if let Some(Hold::Removal(from)) = &change.hold {
                self.agenda.observe_after(&change.key, from, now);
            }
        }
    }
}
