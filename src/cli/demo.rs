//! `demo`: the main job in one go, on a temporary repository.
//!
//! Constraint: nothing is pretended. The daemon is this program in a process of its own, the files
//! are real, the callbacks come over HTTP with real signatures; and nothing is left behind, however
//! the demo ends, except with `--keep`.
//!
//! Map: [`script`] has the actions and what has to come of them, [`child`] the daemon, [`mod@print`]
//! what is shown, [`score`] what came; this file puts them together.

pub mod child;
pub mod print;
pub mod score;
pub mod script;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::child::Daemon;
use self::print::Printer;
use self::score::{Arrival, Outcome};
use self::script::Action;
use super::output::Style;
use super::{DONE, FAILED};
use crate::clock::Clock;
use crate::domain::event::EventKind;
use crate::os;
use crate::receiver::{Received, Receiver, ReceiverOptions};

/// How long a project must be quiet before a removal in it counts, for the demo.
const SETTLE: Duration = Duration::from_millis(200);
/// How long the callbacks of one action may take: far longer than they need, for slow machines.
const PATIENCE: Duration = Duration::from_secs(15);

/// Show the main job in one go, on a temporary repository.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DemoArguments {
    /// Go on afterwards for you to try by hand, until Ctrl-C; the directory is kept
    #[arg(long)]
    pub keep: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo. The status is 0 only if every callback came and was signed.
pub(super) async fn run(
    arguments: DemoArguments,
    level: Option<tracing::Level>,
    clock: Clock,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let mut signals = os::signals().context("signals cannot be handled")?;
    let mut printer = Printer {
        json: arguments.json,
        style,
        out,
    };
    let mut outcome = Outcome::default();
    let secret = new_secret();
    let options = ReceiverOptions::new(move || clock.now()).with_secrets(vec![secret.clone()]);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (receiver, received) = Receiver::bind(loopback, options).await?;
    // The directory outlives the daemon: what is declared later is dropped first.
    let mut place = Place::make(receiver.url(), &secret)?;
    let began = clock.moment();
    let mut daemon = Daemon::start(&place.config(), place.log(), level)?;
    place.pid = daemon.pid();

    let play = async {
        daemon.ready(&place.state_dir()).await?;
        printer.start(&place, clock.moment().saturating_sub(began))?;
        let mut callbacks = Callbacks { received, clock };
        for (number, action) in (1..).zip(script::actions()) {
            printer.action(number, &action)?;
            tokio::select! {
                played = callbacks.play(&action, &place, &mut printer, &mut outcome) => played?,
                died = daemon.death() => return Err(died),
            }
        }
        printer.result(
            &outcome,
            clock.moment().saturating_sub(began),
            None,
            &daemon.log_tail(),
        )?;
        if arguments.keep {
            printer.try_by_hand(&place)?;
            tokio::select! {
                watched = callbacks.watch(&mut printer) => watched?,
                died = daemon.death() => return Err(died),
            }
        }
        Ok(Ended::Played)
    };
    let ended = tokio::select! {
        served = receiver.serve(CancellationToken::new()) => {
            Err(served.map_or_else(anyhow::Error::from, |()| anyhow!("it ended"))
                .context("the receiver stopped"))
        }
        _ = signals.next() => Ok(Ended::Interrupted),
        ended = play => ended,
    };
    let log = daemon.log_tail();
    daemon.stop().await;

    let shown = match ended {
        Ok(Ended::Played) => Ok(()),
        // The end that was announced.
        Ok(Ended::Interrupted) if arguments.keep && outcome.is_complete() => Ok(()),
        Ok(Ended::Interrupted) => Err(anyhow!("interrupted")),
        Err(error) => Err(error),
    };
    let is_complete = outcome.is_complete();
    let took = clock.moment().saturating_sub(began);
    let told = match &shown {
        Ok(()) => Ok(()),
        // Nobody reads: there is nobody to tell either.
        Err(error) if super::is_broken_pipe(error) => Ok(()),
        Err(error) => printer.result(&outcome, took, Some(error), &log),
    };
    if arguments.keep {
        place.keep();
        told.and_then(|()| printer.kept(&place))?;
    } else {
        told?;
    }
    match shown {
        Ok(()) if is_complete => Ok(DONE),
        Err(error) if super::is_broken_pipe(&error) => Err(error),
        Ok(()) | Err(_) => Ok(FAILED),
    }
}

/// How the play ended.
enum Ended {
    /// All of it was played.
    Played,
    /// A signal ended it.
    Interrupted,
}

/// A secret that nobody can guess, as Standard Webhooks writes one.
fn new_secret() -> SecretString {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(
        Uuid::new_v4()
            .as_bytes()
            .iter()
            .chain(Uuid::new_v4().as_bytes()),
    ) {
        *to = *from;
    }
    SecretString::from(format!("whsec_{}", BASE64_STANDARD.encode(bytes)))
}

/// Where the demo takes place: a directory that goes when this is dropped.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    temporary: Option<TempDir>,
    /// Where the receiver listens.
    pub url: String,
    /// The daemon's process.
    pub pid: Option<u32>,
}

impl Place {
    fn make(url: String, secret: &SecretString) -> anyhow::Result<Self> {
        use secrecy::ExposeSecret;
        let temporary = tempfile::Builder::new()
            .prefix("project-webhooks-demo-")
            .tempdir()
            .context("no temporary directory can be made; is $TMPDIR writable?")?;
        let directory = temporary.path().to_owned();
        let write = || {
            script::prepare(&directory)?;
            // The directory is its owner's alone, and so is what is in it.
            fs::write(directory.join("secret"), secret.expose_secret())?;
            fs::set_permissions(
                directory.join("secret"),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )?;
            fs::write(directory.join("config.yaml"), configuration(&url))
        };
        write().with_context(|| format!("cannot write into {}", directory.display()))?;
        Ok(Self {
            directory,
            temporary: Some(temporary),
            url,
            pid: None,
        })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The daemon's configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.yaml")
    }

    fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// Leaves the directory when this is dropped.
    fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _path = temporary.keep();
        }
    }
}

/// The configuration: one webhook for each event, so that each label is shown by one of its own.
fn configuration(url: &str) -> String {
    let mut text = format!(
        "# Written by project-webhooks demo.\n\
         repository:\n\
         \x20 path: ./repository\n\
         \x20 settle: {}ms\n\
         state_dir: ./state\n\
         organizations:\n\
         \x20 sales: {{ name: Sales, id: 0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 }}\n\
         \x20 marketing: {{ name: Marketing, id: 3f2a8c74-51d6-4a0e-b9c7-2d84f1e60b35 }}\n\
         log: {{ level: info, format: text }}\n\
         webhooks:\n",
        SETTLE.as_millis()
    );
    for kind in EventKind::ALL {
        text.push_str(&format!(
            "  - name: {kind}\n\
             \x20   event: {}\n\
             \x20   url: {url}{kind}\n\
             \x20   secret: {{ file: secret }}\n",
            kind.label()
        ));
        if kind == EventKind::ProjectImport {
            text.push_str("    projects: [\"sales/*\"]\n");
        }
    }
    text
}

/// The callbacks as they come.
struct Callbacks {
    received: mpsc::Receiver<Received>,
    clock: Clock,
}

impl Callbacks {
    /// Does an action and waits for its callbacks; those that do not come are noted.
    async fn play(
        &mut self,
        action: &Action,
        place: &Place,
        printer: &mut Printer<'_>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        for step in &action.steps {
            step.perform(place.directory())
                .with_context(|| format!("cannot do: {step}"))?;
        }
        let done = self.clock.now();
        let mut waiting = action.callbacks.clone();
        let deadline = tokio::time::sleep(PATIENCE);
        tokio::pin!(deadline);
        while !waiting.is_empty() {
            tokio::select! {
                received = self.received.recv() => {
                    let received = received.context("the receiver stopped")?;
                    let arrival = Arrival::of(received, &mut waiting, done);
                    outcome.note(&arrival);
                    printer.callback(&arrival)?;
                }
                () = &mut deadline => break,
            }
        }
        outcome.missing.extend(waiting);
        Ok(())
    }

    /// Prints callbacks for as long as somebody reads.
    async fn watch(&mut self, printer: &mut Printer<'_>) -> anyhow::Result<()> {
        while let Some(received) = self.received.recv().await {
            if printer.json {
                super::listen::print_callback_json(&mut printer.out, &received)?;
            } else {
                super::listen::print_callback(&mut printer.out, &received, printer.style)?;
            }
            printer.out.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config;

    #[test]
    fn the_configuration_is_valid_and_has_a_webhook_for_each_event() {
        let place = Place::make("http://127.0.0.1:9/".to_owned(), &new_secret()).unwrap();
        let loaded = config::load(&place.config(), &BTreeMap::new()).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config.webhooks.len(), EventKind::ALL.len());
        assert_eq!(loaded.config.repository.settle, SETTLE);
        assert_eq!(loaded.config.state_dir, place.state_dir());
        let directory = place.directory().to_owned();
        drop(place);
        assert!(!directory.exists());
    }
}
