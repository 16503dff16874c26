//! Finds the users who made the changes of a step, from the kernel's audit records.
//!
//! Constraint: an audit record usually comes a few hundred microseconds after the report of its
//! change. A step waits once for the records of all its events, at most [`PATIENCE`]. After several
//! steps that found no actor, steps no longer wait.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use super::judge::{Judgement, Unnamed};
use super::status::{ActorReport, Status};
use crate::actor::{Act, Asked, Gap, Node, PathNodes, Question, Reader, gap_of, is_in_container};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::actor::{Account, Actor};
use crate::domain::event::{EventId, Parameter};
use crate::domain::parameters::username;
use crate::domain::project::FileState;
use crate::mounts::{MountList, Mounts};
use crate::observe::Observer;
use crate::repository::{Root, stamp, stat_at};
use crate::store::NewEvent;

/// The longest time that a step waits for audit records.
const PATIENCE: Duration = Duration::from_millis(50);

/// The maximum length of a program's path in an event, in characters.
///
/// The path must fit into a header.
const PROGRAM_MAX: usize = 256;

/// After this many steps in a row that found no actor, steps no longer wait.
///
/// They wait again once a record arrives.
const FRUITLESS_MAX: u32 = 3;

/// The audit source of usernames. It is off if the configuration does not name it.
#[derive(Default)]
pub(super) struct Actors {
    source: Option<Source>,
    mounts: MountList,
}

/// The configured source. `reader` is `None` if it could not start or has failed.
struct Source {
    report: ActorReport,
    reader: Option<Reader>,
    /// The number of steps in a row in which no record named an actor.
    ///
    /// `n_records` is the number of records at the end of the last such step.
    fruitless: u32,
    n_records: u64,
    has_warned_of_miss: bool,
    has_warned_of_loss: bool,
}

impl Actors {
    /// Starts, keeps or stops the reader, according to the configuration.
    pub(super) fn configure(&mut self, config: &Config, clock: Clock, status: &Status) {
        let wanted = config.naming.audit_key();
        let is_same = match (&self.source, wanted) {
            // A reload retries a reader that could not start or has failed.
            (Some(source), Some(key)) => source.reader.is_some() && source.report.key == key,
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.source = wanted.map(|key| Source::start(key, clock));
        }
        self.report(status);
    }

    /// Publishes the counts of records in the status.
    pub(super) fn report(&mut self, status: &Status) {
        if let Some(source) = &mut self.source {
            source.update();
        }
        let report = self.source.as_ref().map(|source| source.report.clone());
        status.set_actor(report);
    }

    /// Finds the actors of the judgement's unnamed events, and adds them to the events.
    pub(super) fn name(
        &mut self,
        judgement: &mut Judgement,
        root: &Root,
        config: &Config,
        users: &Users<'_>,
    ) {
        let clock = users.clock;
        let unnamed = std::mem::take(&mut judgement.unnamed);
        let Some(source) = &mut self.source else {
            return;
        };
        let acts = match &source.reader {
            Some(_) => {
                let mounts = self.mounts.read(&config.repository.path);
                let mut nodes = Nodes::new(root, mounts.unwrap_or_default());
                source.ask(&unnamed, &mut nodes, clock)
            }
            None => vec![None; unnamed.len()],
        };
        let mut found: HashMap<EventId, (Actor, FileState)> = HashMap::new();
        for (one, act) in unnamed.into_iter().zip(acts) {
            source.count(act.is_some(), &one);
            if let Some(act) = act {
                let actor = users.actor(&act);
                found.insert(one.id, (actor, one.subject));
            }
        }
        let first = judgement.batch.changes.iter_mut();
        let portions = judgement.portions.iter_mut();
        let changes = first.chain(portions.map(|portion| &mut portion.change));
        for new in changes.flat_map(|change| &mut change.events) {
            if let Some((actor, subject)) = found.get(&new.event.id) {
                set(new, actor.clone(), subject, config);
            }
        }
        source.update();
    }
}

/// Adds the actor to an event, and sets its username as configured.
fn set(new: &mut NewEvent, actor: Actor, subject: &FileState, config: &Config) {
    let event = &mut new.event;
    let (source, name) = username(subject, &config.naming.username, Some(&actor.user));
    for (parameter, value) in &mut event.parameters {
        if *parameter == Parameter::Username {
            value.clone_from(&name);
        }
    }
    event.explanation.username_from = Some(source.to_owned());
    event.explanation.actor = Some(actor);
}

/// Looks up the names of users during one step.
pub(super) struct Users<'a> {
    pub observer: &'a Observer,
    pub clock: Clock,
    pub now: Timestamp,
}

impl Users<'_> {
    fn actor(&self, act: &Act) -> Actor {
        let (account, uid) = match act.login {
            Some(login) => (Account::Login, login),
            None => (Account::Effective, act.effective),
        };
        Actor {
            user: self.observer.user_name(uid, self.now).unwrap_or_default(),
            uid,
            account,
            program: act.program.chars().take(PROGRAM_MAX).collect(),
            pid: act.pid,
            key: act.key.clone(),
        }
    }
}

impl Source {
    fn start(key: &str, clock: Clock) -> Self {
        let started = match is_in_container() {
            true => Err(Gap::Container),
            false => Reader::start(key, clock).map_err(|error| gap_of(&error)),
        };
        let (reader, failure) = match started {
            Ok(reader) => (Some(reader), None),
            Err(gap) => {
                let failure = gap.to_string();
                warn!(
                    "{failure}. Usernames come from the next source of `username`, if there is one"
                );
                (None, Some(failure))
            }
        };
        Self {
            report: ActorReport {
                key: key.to_owned(),
                failure,
                ..ActorReport::default()
            },
            reader,
            fruitless: 0,
            n_records: 0,
            has_warned_of_miss: false,
            has_warned_of_loss: false,
        }
    }

    /// Copies the counts of the reader. Logs the first loss, and the end of the reader.
    fn update(&mut self) {
        let Some(reader) = &self.reader else { return };
        let counts = reader.counts();
        self.report.records = counts.n_calls;
        self.report.losses = counts.n_losses;
        if counts.n_losses > 0 && !self.has_warned_of_loss {
            self.has_warned_of_loss = true;
            warn!(
                "the kernel dropped audit records before they were read, so some usernames come \
                 from the next source of `username`, if there is one. Increase net.core.rmem_max and restart the daemon, or audit less"
            );
        }
        if let Some(error) = counts.failure {
            let failure = format!("cannot read audit records: {error}; a reload retries");
            warn!("{failure}. Usernames come from the next source of `username`, if there is one");
            self.report.failure = Some(failure);
            self.reader = None;
        }
    }

    /// Asks the reader of audit records for the system call that made each change.
    ///
    /// Returns one answer for each event, in order: `None` if no record shows the system call.
    fn ask(
        &mut self,
        unnamed: &[Unnamed],
        nodes: &mut Nodes<'_>,
        clock: Clock,
    ) -> Vec<Option<Arc<Act>>> {
        let mut answers: Vec<Option<Arc<Act>>> = vec![None; unnamed.len()];
        let Some(reader) = &self.reader else {
            return answers;
        };
        let (mut questions, mut indexes) = (Vec::new(), Vec::new());
        for (index, one) in unnamed.iter().enumerate() {
            if let Some(question) = nodes.question(one) {
                questions.push(question);
                indexes.push(index);
            }
        }
        let n_records = reader.counts().n_calls;
        let waits = self.fruitless < FRUITLESS_MAX || n_records != self.n_records;
        let patience = if waits { PATIENCE } else { Duration::ZERO };
        let found = reader.answer(&questions, patience, clock);
        if found.iter().any(Option::is_some) {
            self.fruitless = 0;
        } else {
            self.fruitless = self.fruitless.saturating_add(1);
            self.n_records = reader.counts().n_calls;
        }
        for ((index, question), act) in indexes.into_iter().zip(&questions).zip(found) {
            if act.is_none() {
                debug!(
                    ?question,
                    ?patience,
                    "no audit record shows who made the change"
                );
            }
            if let Some(answer) = answers.get_mut(index) {
                *answer = act;
            }
        }
        answers
    }

    fn count(&mut self, is_named: bool, event: &Unnamed) {
        if is_named {
            self.report.named += 1;
            return;
        }
        self.report.missed += 1;
        if self.reader.is_some() && !self.has_warned_of_miss {
            self.has_warned_of_miss = true;
            warn!(
                path = event.subject.path,
                key = self.report.key,
                "no audit record shows who made a change, so its username comes from the next \
                 source. Run `project-webhooks check` as root to see what is missing; this is logged once"
            );
        }
    }
}

/// Finds the device and inode numbers of paths below the root.
struct Nodes<'a> {
    root: &'a Root,
    mounts: Mounts,
    directories: HashMap<String, Option<Node>>,
}

impl<'a> Nodes<'a> {
    fn new(root: &'a Root, mounts: Mounts) -> Self {
        Self {
            root,
            mounts,
            directories: HashMap::new(),
        }
    }

    /// Returns the directory at a path, if it can be opened and its device is known.
    fn directory(&mut self, path: &str) -> Option<Node> {
        if let Some(known) = self.directories.get(path) {
            return *known;
        }
        let found = self
            .inode(path)
            .ok()
            .and_then(|inode| self.node(path, inode));
        self.directories.insert(path.to_owned(), found);
        found
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        let directory = self.root.open_directory(path)?;
        Ok(stamp(&rustix::fs::fstat(&directory)?).inode)
    }

    /// Returns a file's device and inode number.
    ///
    /// The device comes from the list of mounts. On btrfs, `stat` returns another device than audit
    /// records have.
    fn node(&self, path: &str, inode: u64) -> Option<Node> {
        Some((self.mounts.of(path)?.device()?, inode))
    }

    /// Returns the names on a path, and its directories up to the first unknown one.
    fn path(&mut self, path: &str) -> Option<PathNodes> {
        let mut directories = vec![self.directory("")?];
        let ends = path.match_indices('/').map(|(end, _)| end);
        for above in ends.filter_map(|end| path.get(..end)) {
            match self.directory(above) {
                Some(node) => directories.push(node),
                None => break,
            }
        }
        let names = path.split('/').map(|name| Arc::from(name.as_bytes()));
        let names = names.collect();
        Some(PathNodes { directories, names })
    }

    /// Makes the question about an event for the reader, if all devices are known.
    fn question(&mut self, event: &Unnamed) -> Option<Question> {
        let path = event.subject.path.as_str();
        let (subject, above) = (&event.subject.stamp, path.rsplit_once('/'));
        let node = self.node(above.map_or("", |(above, _)| above), subject.inode)?;
        let asked = match &event.before {
            Some(before) if event.is_move => Asked::Moved {
                node,
                since_ns: before.stamp.changed_ns,
                from: self.path(&before.path)?,
            },
            Some(before) if is_gone(event) => Asked::Vanished {
                node,
                since_ns: before.stamp.changed_ns,
                replaced_by: self.replacement(path),
            },
            Some(before) if before.stamp.inode == subject.inode => Asked::Rewritten {
                node,
                changed_ns: subject.changed_ns,
                since_ns: before.stamp.changed_ns,
            },
            _ => Asked::Appeared {
                node,
                changed_ns: subject.changed_ns,
                depth: event.depth,
            },
        };
        let path = self.path(path)?;
        Some(Question { path, asked })
    }

    /// Returns the file that is at this path now, with its change time.
    fn replacement(&self, path: &str) -> Option<(Node, i64)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.root.open_directory(above).ok()?;
        let found = stamp(&stat_at(directory.as_fd(), name).ok()?);
        Some((self.node(above, found.inode)?, found.changed_ns))
    }
}

/// Whether the file of the event is gone. Then its subject is the recorded state.
fn is_gone(event: &Unnamed) -> bool {
    event.before.as_ref() == Some(&event.subject)
}
