//! Mounts in a namespace of the test's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::common::{Run as _, skip, succeeds, wait_exit, wait_until};

/// Marks the process that has namespaces of its own.
const INSIDE: &str = "PROJECT_WEBHOOKS_TEST_INSIDE";

/// Runs a test in mount and process namespaces of its own, or skips it.
///
/// `test` is its path in this binary; `tools` are the programs that it needs.
pub fn in_namespaces(test: &str, tools: &[&str], run: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return run();
    }
    const UNSHARE: [&str; 6] = [
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    if !succeeds("unshare", &[&UNSHARE[..], &["true"]].concat()) {
        return skip(test, "needs root, to make namespaces");
    }
    let is_missing = |tool: &&&str| !succeeds("sh", &["-c", &format!("command -v {tool}")]);
    if let Some(tool) = tools.iter().find(is_missing) {
        return skip(test, &format!("needs {tool}"));
    }
    let output = Command::new("unshare")
        .args(UNSHARE)
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .run()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "no such test: {test}");
    let skipped = format!("skipped: {test}: ");
    if let Some(reason) = stderr.lines().find_map(|line| line.strip_prefix(&skipped)) {
        skip(test, reason);
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mounted {
    at: PathBuf,
    /// The process that serves it.
    server: Option<Child>,
}

impl Mounted {
    /// Mounts by the program `mount`. None if the kernel lacks the file system.
    pub fn by_mount(arguments: &[&str], at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let status = Command::new("mount").args(arguments).arg(at).ended();
        let mounted = Self {
            at: at.to_owned(),
            server: None,
        };
        status.unwrap().success().then_some(mounted)
    }

    /// Starts a server that stays in the foreground, and waits until it serves this mount point.
    pub fn by_server(mut command: Command, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let server = command.stdin(Stdio::null()).spawn().unwrap();
        wait_until("a served mount", || is_mounted(at).then_some(()));
        Self {
            at: at.to_owned(),
            server: Some(server),
        }
    }

    /// Unmounts at once, and fails if it is in use.
    pub fn unmount(mut self) {
        let status = Command::new("umount").arg(&self.at).ended().unwrap();
        assert!(status.success(), "{} is in use", self.at.display());
        if let Some(mut server) = self.server.take() {
            wait_exit(&mut server);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.at) {
            let at = self.at.to_string_lossy();
            succeeds("umount", &["--lazy", &at]);
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Without a slash at the end.
    let at: PathBuf = at.components().collect();
    table
        .lines()
        .any(|line| line.split(' ').nth(4).map(Path::new) == Some(&at))
}

/// Makes a file with room for a file system.
pub fn image(path: &Path, megabytes: u64) {
    let file = File::create(path).unwrap();
    file.set_len(megabytes << 20).unwrap();
}

/// A new exFAT file system, served by FUSE.
pub fn exfat(disk: &Path, at: &Path) -> Mounted {
    image(disk, 16);
    assert!(succeeds("mkfs.exfat", &[&disk.to_string_lossy()]));
    let device = LoopDevice::of(disk);
    let mut server = Command::new("mount.exfat-fuse");
    server
        .args(["-d", &device.0])
        .arg(at)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Mounted::by_server(server, at)
}

/// A loop device. When dropped it is detached, or as soon as nobody uses it.
pub struct LoopDevice(pub String);

impl LoopDevice {
    /// Attaches a file, which another device may have as well.
    pub fn of(disk: &Path) -> Self {
        let attached = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(disk)
            .run()
            .unwrap();
        let device = String::from_utf8(attached.stdout).unwrap();
        Self(device.trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        succeeds("losetup", &["--detach", &self.0]);
    }
}
