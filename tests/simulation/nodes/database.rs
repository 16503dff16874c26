//! A model of the database: the lease, transactions with the epoch, the record, and lanes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use project_webhooks::domain::lease::{Input, Request};
use project_webhooks::domain::moves::{Comparison, Conclusion};
use project_webhooks::domain::project::{Identity, Recorded};

use super::{Fault, LENGTH};
use crate::world::World;

/// A process: a node between two starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub node: usize,
    pub life: u32,
}

/// The observations of a step, with the files as they were then.
#[derive(Debug)]
pub struct Round {
    /// Later observations have a greater number.
    pub number: u64,
    pub world: World,
    pub looks: Vec<Comparison>,
    pub changes: Vec<Conclusion>,
}

#[derive(Clone, Debug)]
pub enum Query {
    Lease(Request),
    /// Begins a transaction, and locks the repository if the epoch is current.
    Begin {
        epoch: i64,
    },
    Commit {
        round: Rc<Round>,
    },
    Claim,
    Finish(Claim),
}

/// The right to send a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub lane: u32,
    pub event: u64,
    /// Each claim has a number of its own.
    pub number: u64,
}

#[derive(Clone, Debug)]
pub enum Reply {
    Lease(Input),
    Begun,
    Fenced,
    Committed,
    Claimed(Option<Claim>),
    Finished,
    /// The connection is lost, or the statement failed.
    Failed,
}

#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub event: u64,
    pub n_received: u32,
    claim: Option<(u64, Duration)>,
}

#[derive(Debug)]
struct Transaction {
    of: Process,
    since: Duration,
}

#[derive(Debug, Default)]
pub struct Database {
    pub now: Duration,
    fault: Option<Fault>,
    /// The epoch that each commit checks.
    pub epoch: i64,
    /// The epoch of the last grant, and when it expires.
    lease: Option<(i64, Duration)>,
    /// The process that got the last grant.
    pub holder: Option<Process>,
    /// The transaction that has the repository's lock.
    transaction: Option<Transaction>,
    pub record: BTreeMap<usize, Recorded>,
    pub lanes: BTreeMap<u32, Vec<Delivery>>,
    pub n_events: u64,
    n_claims: u64,
}

impl Database {
    pub fn new(fault: Option<Fault>) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }

    /// Handles a request of a lease. Returns `None` while it waits for a lock.
    pub fn lease(&mut self, of: Process, request: Request) -> Option<Input> {
        let (now, until) = (self.now, self.now + LENGTH);
        let is_current = |lease: Option<(i64, Duration)>, epoch| {
            lease.is_some_and(|(current, _)| current == epoch)
        };
        Some(match request {
            Request::Acquire => {
                if self.lease.is_some_and(|(_, until)| until > now) {
                    return Some(Input::Refused);
                }
                let is_locked = self.transaction.as_ref().is_some_and(|open| open.of != of);
                if is_locked && self.fault != Some(Fault::TransactionIgnored) {
                    return None;
                }
                if self.fault != Some(Fault::EpochNotRaised) || self.epoch == 0 {
                    self.epoch += 1;
                }
                self.lease = Some((self.epoch, until));
                self.holder = Some(of);
                Input::Granted { epoch: self.epoch }
            }
            Request::Renew { epoch } if is_current(self.lease, epoch) => {
                self.lease = Some((epoch, until));
                Input::Renewed
            }
            Request::Renew { .. } => Input::Stale,
            Request::GiveBack { epoch } => {
                if is_current(self.lease, epoch) && self.fault != Some(Fault::NotGivenBack) {
                    self.lease = Some((epoch, Duration::ZERO));
                }
                Input::Renewed
            }
        })
    }

    /// Begins a transaction. Returns `None` while it waits for a lock.
    pub fn begin(&mut self, of: Process, epoch: i64) -> Option<Reply> {
        if self.transaction.is_some() {
            return None;
        }
        if epoch != self.epoch && self.fault != Some(Fault::EpochNotChecked) {
            return Some(Reply::Fenced);
        }
        let since = self.now;
        self.transaction = Some(Transaction { of, since });
        Some(Reply::Begun)
    }

    /// Ends a transaction. Returns whether it can be committed.
    ///
    /// The record has to be as the process read it.
    pub fn end(&mut self, of: Process, round: &Round) -> bool {
        if self.transaction.take_if(|open| open.of == of).is_none() {
            return false;
        }
        let read = round.looks.iter();
        read.map(|look| (crate::world::place(&look.key), &look.recorded))
            .all(|(at, recorded)| self.recorded(at) == *recorded)
    }

    /// Undoes the transaction of a process whose connection ended.
    pub fn disconnect(&mut self, of: Process) {
        self.transaction.take_if(|open| open.of == of);
    }

    /// Ends all transactions, as a restart does.
    pub fn restart(&mut self) {
        self.transaction = None;
    }

    /// Time passes. A transaction that idles for the length of the lease is undone.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.transaction.take_if(|open| open.since + LENGTH <= now);
    }

    pub fn open_transaction(&self) -> Option<Process> {
        self.transaction.as_ref().map(|open| open.of)
    }

    pub fn recorded(&self, at: usize) -> Recorded {
        self.record.get(&at).cloned().unwrap_or_default()
    }

    /// The places whose recorded definition has one of these identities.
    pub fn with_identities(&self, wanted: &[Identity]) -> Vec<usize> {
        let found = self.record.iter().filter(|(_, recorded)| {
            let definition = recorded.last_definition();
            definition.is_some_and(|file| wanted.contains(&file.identity()))
        });
        found.map(|(at, _)| *at).collect()
    }

    pub fn n_defined(&self) -> usize {
        let defined = self.record.values();
        defined.filter(|one| one.definition.is_some()).count()
    }

    /// Adds a pending delivery.
    pub fn queue(&mut self, lane: u32) {
        self.n_events += 1;
        self.lanes.entry(lane).or_default().push(Delivery {
            event: self.n_events,
            n_received: 0,
            claim: None,
        });
    }

    /// Claims the head of a lane that nobody else has claimed.
    pub fn claim(&mut self) -> Option<Claim> {
        let (now, number) = (self.now, self.n_claims + 1);
        let is_claimed = |one: &Delivery| one.claim.is_some_and(|(_, until)| until > now);
        let mut lanes = self.lanes.iter_mut();
        let (lane, head) = lanes.find_map(|(lane, pending)| {
            let is_free = !pending.iter().any(is_claimed);
            let head = pending.first_mut().filter(|_| is_free)?;
            Some((*lane, head))
        })?;
        head.claim = Some((number, now + LENGTH));
        self.n_claims = number;
        Some(Claim {
            lane,
            event: head.event,
            number,
        })
    }

    /// Records that a delivery was delivered, if its claim is the last one.
    pub fn finish(&mut self, claim: Claim) {
        let Some(pending) = self.lanes.get_mut(&claim.lane) else {
            return;
        };
        pending.retain(|one| {
            let is_it = one.claim.is_some_and(|(number, _)| number == claim.number);
            assert!(!is_it || one.n_received > 0, "{one:?} never arrived");
            !is_it
        });
    }

    /// A request arrives at the receiver.
    pub fn receive(&mut self, claim: Claim) {
        let Some(pending) = self.lanes.get_mut(&claim.lane) else {
            return;
        };
        for one in pending {
            if one.event < claim.event {
                assert!(one.n_received > 0, "{claim:?} overtakes {one:?}");
            } else if one.event == claim.event {
                one.n_received += 1;
            }
        }
    }
}
