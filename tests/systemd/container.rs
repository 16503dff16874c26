//! A real systemd, booted in a container over a copy-on-write view of this machine.
//!
//! Constraint: a test changes nothing on this machine and leaves nothing behind, however it ends.
//! Mounts and processes have their own namespaces, which end with their first process. The kernel
//! kills that process with the thread that started it. The only network is loopback.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::{Run as _, wait_exit, wait_until};

/// Mounts the view and boots: `$1` is the layer over the root `$2`.
const BOOT: &str = r#"
set -e
work=$1/work
mkdir "$work"
mount -t tmpfs -o size=2g,mode=755 systemd-test "$work"
mkdir "$work/upper" "$work/work" "$work/root"
cp -a "$1/stage/." "$work/upper/"
mount -t overlay -o "lowerdir=$2,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
exec systemd-nspawn --quiet --register=no --keep-unit --directory="$work/root" --private-network \
    --link-journal=no --console=pipe --capability=CAP_AUDIT_READ "${@:3}"
"#;

/// Units of this machine that a test does not need.
const MASKED: [&str; 12] = [
    "console-getty.service",
    "getty.target",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-sysctl.service",
    "systemd-update-utmp.service",
    "auditd.service",
    "timers.target",
    "proc-fs-nfsd.mount",
    "run-rpc_pipefs.mount",
];

/// The layer over this machine's root before it boots.
pub struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    /// An empty layer with its own machine id.
    pub fn new() -> Self {
        // Beside the binary, which can be linked then.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The root of the container has these permissions.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let stage = Self { directory };
        stage.write("etc/machine-id", "");
        for unit in MASKED {
            let path = stage.path(&format!("etc/systemd/system/{unit}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("/dev/null", path).unwrap();
        }
        stage
    }

    fn path(&self, inside: &str) -> PathBuf {
        let inside = inside.trim_start_matches('/');
        self.directory.path().join("stage").join(inside)
    }

    /// Writes a file.
    pub fn write(&self, inside: &str, content: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Puts a file of this machine there.
    pub fn put(&self, file: &Path, inside: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if fs::hard_link(file, &path).is_err() {
            fs::copy(file, &path).unwrap();
        }
    }

    /// Boots it, and waits until it is up.
    pub fn boot(self) -> Container {
        let mut command = self.nspawn();
        command.args([
            "--boot",
            "systemd.unit=basic.target",
            "systemd.log_target=journal",
        ]);
        let console = self.directory.path().join("console.log");
        let log = fs::File::create(&console).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let alive = |child: &mut Child| {
            let ended = child.try_wait().unwrap();
            let said = fs::read_to_string(&console).unwrap_or_default();
            assert!(ended.is_none(), "it did not boot: {said}");
        };
        let pid1 = wait_until("the container's first process", || {
            alive(&mut child);
            first_process(child.id())
        });
        let mut container = Container {
            child,
            pid1,
            _stage: self,
        };
        wait_until("the container is up", || {
            alive(&mut container.child);
            let state = container.output(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            ["running", "degraded"]
                .contains(&state.trim())
                .then_some(())
        });
        container
    }

    /// Killed with the thread that starts it, and everything in it too.
    fn nspawn(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .args(["unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-c", BOOT, "boot"])
            .arg(self.directory.path());
        // Another root than this machine's, for another systemd: one made by, for example,
        // mmdebstrap --include=systemd-sysv,dbus,procps,passwd,man-db,sqlite3,openssl trixie ROOT
        match std::env::var_os("SYSTEMD_TEST_ROOT") {
            Some(root) => command
                .arg(root)
                .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1"),
            None => command.arg("/"),
        };
        command
    }
}

/// The process that is the container's first: unshare has systemd-nspawn as its only child, and
/// that has others while it prepares.
fn first_process(unshare: u32) -> Option<u32> {
    let nspawn = children(unshare).into_iter().next()?;
    children(nspawn).into_iter().find(|id| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "systemd")
    })
}

fn children(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    children
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// The reason why no container can run here.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let stage = Stage::new();
    match stage.nspawn().args(["--pipe", "true"]).run() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(format!(
                "no container can be had (Debian: systemd-container): {}",
                said.lines().last().unwrap_or("it says nothing")
            ))
        }
        Err(error) => Some(format!("setpriv: {error}")),
    }
}

/// A booted container; ended when dropped.
pub struct Container {
    child: Child,
    pid1: u32,
    _stage: Stage,
}

impl Container {
    fn enter(&self, command: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .args(["--target", &self.pid1.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--", "env", "--ignore-environment"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args([
                "SYSTEMD_PAGER=",
                "SYSTEMD_COLORS=0",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(command);
        enter
    }

    /// Runs a command inside, and returns its output whatever its exit status.
    pub fn output(&self, command: &[&str]) -> Output {
        self.enter(command).stdin(Stdio::null()).run().unwrap()
    }

    /// Its exit status, and both of its outputs.
    pub fn try_run(&self, command: &[&str]) -> (Option<i32>, String) {
        let output = self.output(command);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// Runs a command inside that has to succeed, and returns its output.
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.output(command);
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs lines of shell inside that have to succeed.
    pub fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-euc", script])
    }

    /// Writes a file inside, as root makes it.
    pub fn write(&self, path: &str, content: &str) {
        let mut child = self
            .enter(&[
                "sh",
                "-euc",
                "mkdir -p \"${1%/*}\"; cat >\"$1\"",
                "sh",
                path,
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(content.as_bytes()).unwrap();
        drop(stdin);
        assert!(wait_exit(&mut child).success(), "{path}");
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self.run(&["systemctl", "show", "--value", "--property", name, unit]);
        said.trim().to_owned()
    }

    /// Waits until a property of a unit has a value.
    pub fn wait_property(&self, unit: &str, name: &str, wanted: &str) {
        wait_until(&format!("{name} of {unit} is {wanted}"), || {
            (self.property(unit, name) == wanted).then_some(())
        });
    }

    /// The log of a unit, as text.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--sync"]);
        self.run(&["journalctl", "--output=cat", "--quiet", "--unit", unit])
    }

    /// All that daemons logged, also what came so late that journald does not know the unit.
    ///
    /// journald looks up the unit by the process, which may have ended before.
    pub fn journal_of_all(&self) -> String {
        self.run(&["journalctl", "--sync"]);
        let program = "--identifier=project-webhooks";
        self.run(&["journalctl", "--output=cat", "--quiet", program])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut journal = self.enter(&["journalctl", "--boot", "--lines=80", "--quiet"]);
            // A second panic would end the process.
            if let Ok(output) = journal.run() {
                let journal = String::from_utf8_lossy(&output.stdout);
                eprintln!("the end of the container's journal:\n{journal}");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
