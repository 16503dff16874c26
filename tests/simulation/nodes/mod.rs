//! Several nodes work on one record. The lease's rule and inference are the real ones.
//!
//! Files, the network, the database and the receiver are models. Nodes have clocks of their own. They are
//! killed, stopped and cut off, also between the requests of a transaction. Requests arrive late, or their
//! answers are lost.
//!
//! - No observation is recorded after a later one. Each event is inferred once, as the model of
//!   `tests/domain` infers it.
//! - A project's events arrive in order, at least once.
//! - Another node takes over within twice the lease's length. A healthy node keeps the lease. A node that
//!   ends gives it back.
//! - In the end the record equals the disk, everything is delivered, and one node has the lease.
//!
//! Each [`Fault`] breaks a rule on purpose. The simulation must find all of them.

mod database;
mod failures;
mod node;
mod steps;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use project_webhooks::domain::infer::Removals;
use project_webhooks::domain::moves::Comparison;
use project_webhooks::domain::project::ContentHash;

use crate::engine::Happening;
use crate::truth::Truth;
use crate::world::{Action, N_SINGLE, World, hash, path, place};
use database::{Database, Process, Query, Reply, Round};
use node::Node;
pub use steps::{Failure, Step, of};

/// The length of the lease.
const LENGTH: Duration = Duration::from_secs(2);

/// The time between two turns of all nodes.
const TURN: Duration = Duration::from_millis(20);

const NODES: usize = 3;

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A transaction does not check the epoch.
    EpochNotChecked,
    /// A grant does not raise the epoch.
    EpochNotRaised,
    /// A grant does not wait for a transaction that checked the epoch before.
    TransactionIgnored,
    /// A node that takes over does not compare the disk with the record.
    NothingCompared,
    /// A node renews the lease after its end.
    RenewedTooLate,
    /// A node that ends keeps the lease.
    NotGivenBack,
}

/// A request on its way.
#[derive(Debug)]
struct Message {
    of: Process,
    query: Query,
    /// Whether the connection is lost, so that nobody gets the answer.
    is_orphan: bool,
}

pub struct Simulation {
    fault: Option<Fault>,
    world: World,
    truth: Truth,
    database: Database,
    nodes: Vec<Node>,
    network: Vec<Message>,
    n_observations: u64,
    /// The number of the last observation of each place by the node that has the lease.
    concluded: BTreeMap<usize, u64>,
    /// The project of each content.
    engines: HashMap<ContentHash, u32>,
}

/// Runs the steps. Returns the number of take-overs.
pub fn run(steps: &[Step], fault: Option<Fault>) -> i64 {
    let mut simulation = Simulation::new(steps, fault);
    for step in steps {
        simulation.step(*step);
    }
    simulation.finish();
    simulation.database.epoch
}

impl Simulation {
    fn new(steps: &[Step], fault: Option<Fault>) -> Self {
        let mut nodes: Vec<Node> = (0..NODES)
            .map(|_| Node::new((Duration::ZERO, 1000)))
            .collect();
        for step in steps {
            if let Step::Skew { node, ahead, speed } = step {
                nodes[*node].skew = (Duration::from_secs(*ahead), *speed);
            }
        }
        for node in &mut nodes {
            node.start(Duration::ZERO);
        }
        Self {
            fault,
            world: World::default(),
            truth: Truth::default(),
            database: Database::new(fault),
            nodes,
            network: Vec::new(),
            n_observations: 0,
            concluded: BTreeMap::new(),
            engines: HashMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Skew { .. } => {}
            Step::Act(action) => self.act(action),
            Step::Pass(time) => self.pass(time),
            Step::Turn(node) => self.turn(node),
            Step::Serve(index) => {
                if !self.network.is_empty() {
                    self.serve(index % self.network.len());
                }
            }
            Step::Work(time) => self.work(time),
            Step::Fail { node, failure } => self.fail(node, failure),
            Step::Repair(node) => self.repair(node),
            Step::Break { node, arrives } => self.disconnect(node, arrives),
            Step::RestartDatabase => self.restart_database(),
            Step::Calm => self.calm(),
            Step::TakeOver {
                failure,
                turns,
                actions,
                undoes,
                late,
            } => {
                let index = self.begin_work();
                let files = (self.world.files.clone(), self.world.editing.clone());
                self.act(actions.0);
                self.turns_of(index, turns);
                let since = self.database.now;
                self.fail(index, failure);
                if undoes {
                    (self.world.files, self.world.editing) = files;
                    (0..N_SINGLE).for_each(|at| self.report(at));
                } else {
                    self.act(actions.1);
                }
                self.wait_for_another(index, failure, since);
                self.work(late);
                self.repair(index);
            }
        }
    }

    fn act(&mut self, action: Action) {
        for at in self.world.act(action) {
            self.report(at);
        }
        for content in self.world.files.values().filter_map(|file| file.content) {
            self.engines.insert(hash(content), content.engine);
        }
    }

    /// The kernel reports a change to the nodes that watch.
    fn report(&mut self, at: usize) {
        let watching = |node: &&mut Node| node.epoch().is_some();
        for node in self.nodes.iter_mut().filter(watching) {
            node.hints.push(at);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.database.pass(time);
        self.world.tick += 1;
    }

    fn process(&self, node: usize) -> Process {
        let life = self.nodes[node].life;
        Process { node, life }
    }

    fn send(&mut self, node: usize, query: Query) {
        let of = self.process(node);
        self.network.push(Message {
            of,
            query,
            is_orphan: false,
        });
    }

    /// The database handles a request, if it has arrived and does not wait for a lock.
    fn serve(&mut self, index: usize) -> bool {
        let Message {
            of,
            query,
            is_orphan,
        } = &self.network[index];
        let (of, query, is_orphan) = (*of, query.clone(), *is_orphan);
        let is_alive = self.nodes[of.node].life == of.life && !is_orphan;
        if self.nodes[of.node].is_cut && is_alive {
            return false;
        }
        let Some(reply) = self.execute(of, query) else {
            return false;
        };
        self.network.remove(index);
        if is_alive {
            self.nodes[of.node].inbox.push(reply);
        } else if !self.network.iter().any(|other| other.of == of) {
            // The server notices the end of the connection.
            self.database.disconnect(of);
        }
        true
    }

    fn execute(&mut self, of: Process, query: Query) -> Option<Reply> {
        Some(match query {
            Query::Lease(request) => Reply::Lease(self.database.lease(of, request)?),
            Query::Begin { epoch } => self.database.begin(of, epoch)?,
            Query::Commit { round } => match self.database.end(of, &round) {
                true => {
                    self.commit(&round);
                    Reply::Committed
                }
                false => Reply::Failed,
            },
            Query::Claim => Reply::Claimed(self.database.claim()),
            Query::Finish(claim) => {
                self.database.finish(claim);
                Reply::Finished
            }
        })
    }

    /// A step is recorded. The model infers the same events of it.
    fn commit(&mut self, round: &Round) {
        self.conclude(round);
        for (look, change) in round.looks.iter().zip(&round.changes) {
            let at = place(&look.key);
            self.database
                .record
                .insert(at, change.inference.record.clone());
            for event in &change.inference.events {
                self.database.queue(self.engines[&event.payload()]);
            }
        }
    }

    fn conclude(&mut self, round: &Round) {
        let removals = |look: &Comparison| look.removals == Removals::Confirmed;
        let seen: Vec<(usize, bool)> = round
            .looks
            .iter()
            .map(|look| (place(&look.key), removals(look)))
            .collect();
        for (at, _) in &seen {
            let before = self.concluded.insert(*at, round.number);
            assert!(
                before.is_none_or(|before| before < round.number),
                "an observation is recorded after a later one"
            );
        }
        let expected = self.truth.look(&round.world, &seen);
        let mut found: BTreeMap<usize, Vec<Happening>> = BTreeMap::new();
        for (look, change) in round.looks.iter().zip(&round.changes) {
            let events = &change.inference.events;
            let happenings = events
                .iter()
                .map(|event| (event.kind, event.subject.path.clone(), event.subject.hash));
            if !events.is_empty() {
                found.insert(place(&look.key), happenings.collect());
            }
        }
        assert_eq!(found, expected, "what is inferred");
    }

    /// All nodes have turns, and the database handles all requests, for this time.
    fn work(&mut self, time: Duration) {
        let until = self.database.now + time;
        while self.database.now < until {
            self.pass(TURN);
            self.turns();
        }
    }

    fn turns(&mut self) {
        for node in 0..NODES {
            self.turn(node);
        }
        let mut index = 0;
        while index < self.network.len() {
            if !self.serve(index) {
                index += 1;
            }
        }
    }

    /// Everything is repaired, all files are completed, and time passes.
    fn finish(&mut self) {
        for node in 0..NODES {
            self.repair(node);
        }
        for at in 0..N_SINGLE {
            self.act(Action::FinishSave(at));
        }
        let before = self.world.clone();
        self.world.finish();
        for at in 0..N_SINGLE {
            if before.names(at) != self.world.names(at) {
                self.report(at);
            }
        }
        self.work(LENGTH * 8);
        assert!(self.holder().is_some(), "nobody has the lease");
        for at in 0..N_SINGLE {
            let recorded = self.database.recorded(at);
            let recorded: BTreeMap<String, ContentHash> = recorded
                .files()
                .map(|file| (file.path.clone(), file.hash))
                .collect();
            let files = self
                .world
                .files
                .iter()
                .filter(|((place, _), _)| *place == at);
            let on_disk: BTreeMap<String, ContentHash> = files
                .map(|((at, name), file)| (path(*at, *name), hash(file.content.unwrap())))
                .collect();
            assert_eq!(recorded, on_disk, "the record is what is there");
        }
        for pending in self.database.lanes.values() {
            assert!(pending.is_empty(), "{pending:?} is not delivered");
        }
    }
}
