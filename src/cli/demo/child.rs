//! The demo's daemon: this very program, as a process of its own.
//!
//! Constraint: it ends with the demo, on every path. [`Daemon::stop`] asks it to and waits; what
//! does not come to that, a panic for one, does the same when the value is dropped.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::admin;

/// How long the daemon may take until it watches: far longer than it needs, for slow machines.
const START_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end; it gives deliveries in flight 10 s itself.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often it is asked whether it watches yet, and whether it is gone.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How much of the end of the log is read, in bytes.
const TAIL_BYTES: u64 = 16 * 1024;
/// How many lines of it are shown.
const TAIL_LINES: usize = 20;

/// The running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `run` with this configuration, logging into a file.
    ///
    /// # Errors
    ///
    /// Where the log cannot be written or the program not be started.
    pub fn start(
        config: &Path,
        log: PathBuf,
        level: Option<tracing::Level>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own path is not known")?;
        let log_file =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(config)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            // Ctrl-C is for the demo, which ends the daemon itself.
            .process_group(0);
        if let Some(level) = level {
            command.arg("--log-level").arg(level.to_string());
        }
        // The service manager that may have started the demo is not to hear of its daemon.
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(variable);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// The process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the first scan is recorded and everything is watched.
    ///
    /// # Errors
    ///
    /// Where the daemon ends, or does not get there.
    pub async fn ready(&mut self, state_dir: &Path) -> anyhow::Result<()> {
        let asking = async {
            loop {
                // Until it listens there is nobody to ask.
                if let Ok(Some(report)) = admin::ask(state_dir)
                    && report.engine.ready
                {
                    return;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            () = asking => Ok(()),
            ended = self.child.wait() => Err(died(ended)),
            () = tokio::time::sleep(START_MAX) => {
                Err(anyhow!("the daemon does not watch after {START_MAX:?}"))
            }
        }
    }

    /// Waits until the daemon ends by itself, which it should not.
    pub async fn death(&mut self) -> anyhow::Error {
        died(self.child.wait().await)
    }

    /// Asks the daemon to end and waits until it has.
    pub async fn stop(mut self) {
        self.terminate();
        if tokio::time::timeout(STOP_MAX, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }

    /// Asks it to end, where it has not.
    fn terminate(&self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Fails only where it is gone by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> Vec<String> {
        tail(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `id` is absent once it was waited for.
        if self.child.id().is_none() {
            return;
        }
        self.terminate();
        let tries = STOP_MAX.as_millis() / ASK_EVERY.as_millis();
        for _ in 0..tries {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(ASK_EVERY),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.start_kill();
    }
}

fn died(ended: io::Result<ExitStatus>) -> anyhow::Error {
    match ended {
        Ok(status) => anyhow!("the daemon ended by itself ({status})"),
        Err(error) => anyhow!("the daemon cannot be waited for: {error}"),
    }
}

fn tail(path: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines.into_iter().skip(first).collect())
}
