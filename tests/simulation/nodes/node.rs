//! A node: a process that waits for the lease, and works while it has it.

use std::rc::Rc;
use std::time::Duration;

use project_webhooks::domain::event::Origin;
use project_webhooks::domain::lease::{Input, LeaseState, Next, Request};
use project_webhooks::domain::settle::Agenda;

use super::database::{Claim, Query, Reply, Round};
use super::{Fault, LENGTH};
use crate::run::PAUSE;
use crate::world::{N_SINGLE, key};

/// The work on one step.
#[derive(Clone, Debug, Default)]
pub enum Work {
    #[default]
    Idle,
    Observed(Rc<Round>),
    Beginning(Rc<Round>),
    Begun(Rc<Round>),
    Committing(Rc<Round>),
}

/// The work on one delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sending {
    #[default]
    Idle,
    Claiming,
    Claimed(Claim),
    Sent(Claim),
    Finishing,
}

#[derive(Debug)]
pub struct Node {
    /// The number of starts.
    pub life: u32,
    /// `None` if the process is down.
    pub lease: Option<LeaseState>,
    /// When the next request of the lease is sent.
    pub next: Option<(Duration, Request)>,
    pub work: Work,
    pub sending: Sending,
    pub agenda: Agenda,
    /// The reports that the process has not read.
    pub hints: Vec<usize>,
    pub inbox: Vec<Reply>,
    /// The number of turns. Each second one is for the lease, so other requests may be faster.
    pub n_turns: u64,
    /// Stopped by a signal.
    pub is_stopped: bool,
    /// Cut off from the database.
    pub is_cut: bool,
    /// The node's clock: its difference from that of the database, and its speed in thousandths.
    pub skew: (Duration, u32),
}

impl Node {
    pub fn new(skew: (Duration, u32)) -> Self {
        Self {
            life: 0,
            lease: None,
            next: None,
            work: Work::Idle,
            sending: Sending::Idle,
            agenda: Agenda::new(PAUSE),
            hints: Vec::new(),
            inbox: Vec::new(),
            n_turns: 0,
            is_stopped: false,
            is_cut: false,
            skew,
        }
    }

    /// The node's time.
    pub fn clock(&self, now: Duration) -> Duration {
        self.skew.0 + now * self.skew.1 / 1000
    }

    pub fn start(&mut self, now: Duration) {
        self.life += 1;
        self.wait(now);
    }

    /// Waits for the lease. All earlier work is forgotten.
    fn wait(&mut self, now: Duration) {
        self.lease = Some(LeaseState::Waiting);
        self.next = Some((self.clock(now), Request::Acquire));
        self.work = Work::Idle;
        self.hints.clear();
    }

    pub fn kill(&mut self) {
        self.life += 1;
        self.lease = None;
        self.next = None;
        self.work = Work::Idle;
        self.sending = Sending::Idle;
        self.hints.clear();
        self.inbox.clear();
        self.is_stopped = false;
    }

    pub fn is_healthy(&self) -> bool {
        self.lease.is_some() && !self.is_stopped && !self.is_cut
    }

    pub fn epoch(&self) -> Option<i64> {
        match self.lease {
            Some(LeaseState::Held { epoch }) => Some(epoch),
            _ => None,
        }
    }

    /// Handles an input of the lease.
    pub fn handle(&mut self, input: Input, now: Duration, fault: Option<Fault>) {
        let Some(before) = self.lease else { return };
        let (lease, next) = before.handle(input, LENGTH);
        self.lease = Some(lease);
        let next = next.map(|Next { request, mut after }| {
            if fault == Some(Fault::RenewedTooLate) && !after.is_zero() {
                after = LENGTH * 2;
            }
            (self.clock(now) + after, request)
        });
        // A late answer does not take back the last request.
        if next.is_some() || lease != before {
            self.next = next;
        }
        match (before, lease) {
            (LeaseState::Waiting, LeaseState::Held { .. }) => {
                self.agenda = Agenda::new(PAUSE);
                if fault != Some(Fault::NothingCompared) {
                    self.compare(now);
                }
            }
            // It waits again, unless it is going to end.
            (LeaseState::Held { .. }, LeaseState::Over) if self.next.is_none() => {
                // Its connections end.
                self.life += 1;
                self.inbox.clear();
                self.sending = Sending::Idle;
                self.wait(now);
            }
            _ => {}
        }
    }

    /// Compares all places with the record.
    fn compare(&mut self, now: Duration) {
        let now = self.clock(now);
        for at in 0..N_SINGLE {
            self.agenda
                .check(&key(at), now, Origin::CatchUp, "compared");
        }
    }

    /// Reads the reports, and the answers of the database.
    pub fn read(&mut self, now: Duration, fault: Option<Fault>) {
        let moment = self.clock(now);
        for at in std::mem::take(&mut self.hints) {
            self.agenda.hint(&key(at), moment, Origin::Live, "changed");
        }
        if self.is_cut {
            return;
        }
        for reply in std::mem::take(&mut self.inbox) {
            self.receive(reply, now, fault);
        }
    }

    fn receive(&mut self, reply: Reply, now: Duration, fault: Option<Fault>) {
        match (reply, std::mem::take(&mut self.work), self.sending) {
            (Reply::Lease(input), work, _) => {
                self.work = work;
                self.handle(input, now, fault);
            }
            (Reply::Claimed(claim), work, Sending::Claiming) => {
                self.work = work;
                self.sending = claim.map_or(Sending::Idle, Sending::Claimed);
            }
            (Reply::Finished, work, Sending::Finishing) => {
                self.work = work;
                self.sending = Sending::Idle;
            }
            (Reply::Begun, Work::Beginning(round), _) => self.work = Work::Begun(round),
            (Reply::Committed, Work::Committing(round), _) => self.observed(&round, now),
            (Reply::Fenced, Work::Beginning(_), _) => self.handle(Input::Stale, now, fault),
            (Reply::Failed, Work::Beginning(round) | Work::Committing(round), _) => {
                // Nobody knows whether it was recorded. The next observation shows it.
                let now = self.clock(now);
                for look in &round.looks {
                    self.agenda.check(&look.key, now, Origin::Live, "again");
                }
            }
            (_, work, _) => self.work = work,
        }
    }

    /// The connections break: every request in flight fails.
    pub fn disconnect(&mut self, in_flight: &[Query], now: Duration, fault: Option<Fault>) {
        self.inbox.clear();
        for query in in_flight {
            match query {
                Query::Lease(Request::GiveBack { .. }) | Query::Begin { .. } => {}
                Query::Lease(_) => self.handle(Input::Unanswered, now, fault),
                Query::Commit { .. } | Query::Claim | Query::Finish(_) => {}
            }
        }
        if matches!(self.work, Work::Begun(_)) {
            let Work::Begun(round) = std::mem::take(&mut self.work) else {
                return;
            };
            self.work = Work::Committing(round);
        }
        self.receive(Reply::Failed, now, fault);
        if matches!(self.sending, Sending::Claiming | Sending::Finishing) {
            // The claim expires by itself.
            self.sending = Sending::Idle;
        }
    }
}
