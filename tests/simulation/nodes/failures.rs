//! Failures of nodes, connections and the database, and the take-over after them.

use std::time::Duration;

use project_webhooks::domain::lease::{ASK_AGAIN, Input, Request};

use super::database::{Query, Reply};
use super::{Failure, LENGTH, NODES, Simulation, TURN};

impl Simulation {
    pub fn fail(&mut self, index: usize, failure: Failure) {
        let node = &mut self.nodes[index];
        if node.lease.is_none() {
            return;
        }
        match failure {
            Failure::Killed => {
                node.kill();
                self.hang_up(index);
            }
            Failure::Stopped => node.is_stopped = true,
            Failure::Cut => node.is_cut = true,
            Failure::Ended => {
                let (now, fault) = (self.database.now, self.fault);
                node.handle(Input::Stop, now, fault);
                if node.next.is_none() {
                    node.kill();
                    self.hang_up(index);
                }
            }
        }
    }

    /// The server notices the end of processes that have no request on the way.
    pub fn hang_up(&mut self, index: usize) {
        if let Some(of) = self.database.open_transaction()
            && of.node == index
            && of.life != self.nodes[index].life
            && !self.network.iter().any(|message| message.of == of)
        {
            self.database.disconnect(of);
        }
    }

    pub fn repair(&mut self, index: usize) {
        let now = self.database.now;
        let node = &mut self.nodes[index];
        node.is_stopped = false;
        node.is_cut = false;
        if node.lease.is_none() {
            node.start(now);
        }
    }

    /// The connections of a node break. Its requests may arrive all the same.
    pub fn disconnect(&mut self, index: usize, arrives: bool) {
        let of = self.process(index);
        let (now, fault) = (self.database.now, self.fault);
        let in_flight: Vec<Query> = self
            .network
            .iter()
            .filter(|message| message.of == of && !message.is_orphan)
            .map(|message| message.query.clone())
            .chain(self.nodes[index].inbox.iter().filter_map(unread))
            .collect();
        for message in &mut self.network {
            message.is_orphan |= message.of == of;
        }
        if !arrives {
            self.network.retain(|message| message.of != of);
            self.database.disconnect(of);
        }
        self.nodes[index].disconnect(&in_flight, now, fault);
    }

    pub fn restart_database(&mut self) {
        self.database.restart();
        for node in 0..NODES {
            self.disconnect(node, false);
        }
        self.network.clear();
    }

    pub fn holder(&self) -> Option<usize> {
        let process = self.database.holder?;
        let node = &self.nodes[process.node];
        (node.life == process.life && node.epoch().is_some()).then_some(process.node)
    }

    /// A healthy node keeps the lease.
    pub fn calm(&mut self) {
        for node in 0..NODES {
            self.repair(node);
        }
        self.work(LENGTH * 2);
        let epoch = self.database.epoch;
        self.work(LENGTH * 3);
        assert_eq!(self.database.epoch, epoch, "a healthy node lost the lease");
    }

    /// Repairs everything. Returns the node with the lease.
    pub fn begin_work(&mut self) -> usize {
        for node in 0..NODES {
            self.repair(node);
        }
        self.work(LENGTH * 2);
        self.holder().expect("a node has the lease")
    }

    /// A node has turns alone. The last of its requests has not arrived then.
    pub fn turns_of(&mut self, index: usize, turns: usize) {
        for _ in 0..turns {
            self.turn(index);
            for at in (0..self.network.len().saturating_sub(1)).rev() {
                self.serve(at);
            }
        }
    }

    /// Waits until another node has the lease.
    pub fn wait_for_another(&mut self, index: usize, failure: Failure, since: Duration) {
        let latest = match failure {
            Failure::Ended => ASK_AGAIN * 2,
            Failure::Killed | Failure::Stopped | Failure::Cut => LENGTH * 2,
        };
        while self.holder().is_none_or(|holder| holder == index) {
            let passed = self.database.now - since;
            assert!(passed <= latest, "nobody took over within {latest:?}");
            self.work(TURN);
        }
    }
}

/// The request whose answer arrived and was not read.
fn unread(reply: &Reply) -> Option<Query> {
    match reply {
        Reply::Lease(_) => Some(Query::Lease(Request::Acquire)),
        _ => None,
    }
}
