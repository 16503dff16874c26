//! A program under measurement: the daemon, or the floor.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A running program, killed when dropped.
pub struct Program {
    child: Child,
    /// From the start of the process to its word `ready`.
    pub start: Duration,
}

impl Program {
    /// Starts it and waits for the word `ready` in its output, which goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::create(log)?;
        let begin = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut program = Self {
            child,
            start: Duration::ZERO,
        };
        while begin.elapsed() < Duration::from_secs(300) {
            let said = std::fs::read_to_string(log)?;
            if said.contains("ready") {
                program.start = begin.elapsed();
                return Ok(program);
            }
            if let Some(status) = program.child.try_wait()? {
                anyhow::bail!("the program ended with {status} before it was ready: {said}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        anyhow::bail!(
            "the program was not ready after 300 s; its output is in {}",
            log.display()
        )
    }

    /// The most memory that it had resident, in kilobytes.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        self.status_field("status", "VmHWM:")
    }

    /// The memory that it has resident, in kilobytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.status_field("status", "VmRSS:")
    }

    /// How often its threads were woken, since each began.
    pub fn wake_ups(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let name = thread?.file_name();
            let status = format!("task/{}/status", name.to_string_lossy());
            sum += self.status_field(&status, "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    fn status_field(&self, file: &str, field: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.kill();
    }
}
