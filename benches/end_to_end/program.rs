//! A program under measurement: the daemon, a floor, or a peer.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A running program, killed with all of its children when dropped.
pub struct Program {
    child: Child,
    /// When its process was started.
    pub begin: Instant,
    /// From then to the word that says it is ready.
    pub start: Duration,
}

impl Program {
    /// Starts it and waits for the word that says it is ready in its output, which goes to `log`.
    pub fn start(command: &mut Command, log: &Path, ready: &str) -> anyhow::Result<Self> {
        let output = File::create(log)?;
        let begin = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let mut program = Self {
            child,
            begin,
            start: Duration::ZERO,
        };
        while begin.elapsed() < Duration::from_secs(300) {
            crate::interrupt::check()?;
            let said = std::fs::read_to_string(log)?;
            if said.contains(ready) {
                program.start = begin.elapsed();
                return Ok(program);
            }
            if let Some(status) = program.child.try_wait()? {
                anyhow::bail!("the program ended with {status} before it was ready: {said}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        anyhow::bail!(
            "the program was not ready after 300 s; its output is in {}",
            log.display()
        )
    }

    /// The most memory that it had resident, in kilobytes.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        self.field("status", "VmHWM:")
    }

    /// The memory that it has resident, in kilobytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.field("status", "VmRSS:")
    }

    /// How many bytes it asked of files and sockets.
    pub fn bytes_read(&self) -> anyhow::Result<u64> {
        self.field("io", "rchar:")
    }

    /// How many threads it has.
    pub fn threads(&self) -> anyhow::Result<u64> {
        self.field("status", "Threads:")
    }

    /// How often its threads were woken, since each began.
    pub fn wake_ups(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let name = thread?.file_name();
            let status = format!("task/{}/status", name.to_string_lossy());
            sum += self.field(&status, "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    fn field(&self, file: &str, field: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Asks it to compare everything with what is on disk.
    pub fn rescan(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid()?, Signal::USR1)?)
    }

    /// Ends it and its children at once, as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process_group(self.pid()?, Signal::KILL)?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a process without a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.kill();
    }
}
