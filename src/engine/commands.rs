//! Sends commands to the engine, in addition to hints.
//!
//! Constraint: sending a command never waits. An engine takes no commands while its file system
//! hangs. Its input channel then fills up, which must block neither the supervisor nor another
//! repository.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Input;
use super::held_removals::{Accepted, HeldProjects};
use crate::config::Config;
use crate::domain::rescan::RescanReason;

/// The maximum number of requests that wait for an answer. Further requests are refused.
const REQUESTS: usize = 64;

/// A command to the engine, which executes it between two steps.
#[derive(Debug)]
pub(crate) enum Command {
    /// Set all watches again and run a full scan.
    Rescan(RescanReason),
    /// List the held removals, and send the list as the answer.
    ListHeld(oneshot::Sender<HeldProjects>),
    /// Release the held removals that this token identifies ([`HeldProjects`]).
    Accept(String, oneshot::Sender<Accepted>),
    /// Apply this configuration, and notify the sender. A new layout may take effect later.
    Configure(Arc<Config>, oneshot::Sender<()>),
}

impl Command {
    /// Whether a new command replaces this command.
    fn is_replaced_by(&self, new: &Self) -> bool {
        matches!(
            (self, new),
            (Self::Rescan(_), Self::Rescan(_)) | (Self::Configure(..), Self::Configure(..))
        )
    }

    /// Whether this is a request whose sender no longer waits for the answer.
    fn is_withdrawn(&self) -> bool {
        match self {
            Self::ListHeld(answer) => answer.is_closed(),
            Self::Accept(_, answer) => answer.is_closed(),
            Self::Rescan(_) | Self::Configure(..) => false,
        }
    }

    fn is_request(&self) -> bool {
        matches!(self, Self::ListHeld(_) | Self::Accept(..))
    }
}

/// The commands that the engine has not taken yet, in order.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Vec<Command>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Vec<Command>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all commands except withdrawn requests.
    pub(super) fn take(&self) -> Vec<Command> {
        let mut commands = std::mem::take(&mut *self.lock());
        commands.retain(|command| !command.is_withdrawn());
        commands
    }
}

/// Sends commands to an engine.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    pending: Arc<Pending>,
    inputs: SyncSender<Input>,
}

impl Commands {
    pub(super) fn new(inputs: SyncSender<Input>) -> Self {
        Self {
            pending: Arc::default(),
            inputs,
        }
    }

    pub(super) fn pending(&self) -> Arc<Pending> {
        Arc::clone(&self.pending)
    }

    /// Sends a command. Returns false if the engine has ended or too many requests wait.
    pub(crate) fn give(&self, command: Command) -> bool {
        let mut pending = self.pending.lock();
        pending.retain(|other| !other.is_withdrawn() && !other.is_replaced_by(&command));
        let n_requests = pending.iter().filter(|other| other.is_request()).count();
        if command.is_request() && n_requests >= REQUESTS {
            return false;
        }
        pending.push(command);
        drop(pending);
        self.wake()
    }

    /// Wakes the engine. Returns false if the engine has ended.
    ///
    /// A full channel is not a failure: its inputs already wake the engine.
    pub(super) fn wake(&self) -> bool {
        !matches!(
            self.inputs.try_send(Input::Wake),
            Err(TrySendError::Disconnected(_))
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_full_channel_stops_no_command_and_withdrawn_requests_are_forgotten() {
        let (inputs, _receiver) = sync_channel(1);
        let commands = Commands::new(inputs);
        assert!(commands.wake() && commands.wake(), "the channel is full");
        for _ in 0..3 * REQUESTS {
            let (answer, _) = oneshot::channel();
            assert!(commands.give(Command::ListHeld(answer)));
        }
        assert!(commands.pending.take().is_empty(), "nobody waits for them");

        let mut waiting = Vec::new();
        for n in 0..=REQUESTS {
            let (answer, receiver) = oneshot::channel();
            waiting.push(receiver);
            let request = Command::Accept("token".to_owned(), answer);
            assert_eq!(commands.give(request), n < REQUESTS);
        }
        assert!(commands.give(Command::Rescan(RescanReason::Signal)));
        assert!(commands.give(Command::Rescan(RescanReason::Signal)));
        assert_eq!(commands.pending.take().len(), REQUESTS + 1);
    }

    #[test]
    fn the_end_of_the_engine_is_noticed() {
        let (inputs, receiver) = sync_channel(1);
        let commands = Commands::new(inputs);
        drop(receiver);
        assert!(!commands.give(Command::Rescan(RescanReason::Signal)));
    }
}
