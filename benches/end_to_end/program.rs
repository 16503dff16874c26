//! A measured program: the daemon, a floor, or a peer.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A running program. Dropping it kills it with all of its children.
pub struct Program {
    child: Child,
    /// The start of its process.
    pub begin: Instant,
    /// The time until its output has the word for readiness.
    pub start: Duration,
}

impl Program {
    /// Starts it with its output in `log`, and waits until that has the word `ready`.
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

    /// The peak of its resident memory, in kilobytes.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        self.field("status", "VmHWM:")
    }

    /// Its resident memory, in kilobytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.field("status", "VmRSS:")
    }

    /// The number of bytes it read from files and sockets.
    pub fn bytes_read(&self) -> anyhow::Result<u64> {
        self.field("io", "rchar:")
    }

    /// The number of its threads.
    pub fn threads(&self) -> anyhow::Result<u64> {
        self.field("status", "Threads:")
    }

    /// The number of wake-ups of its threads since their start.
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

    /// Asks it for a full scan.
    pub fn rescan(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid()?, Signal::USR1)?)
    }

    /// Kills it and its children.
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
        // It may have ended already.
        let _ = self.kill();
    }
}
