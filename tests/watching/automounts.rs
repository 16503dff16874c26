//! A file system that the kernel mounts when it is used, and that is unmounted when it is idle (autofs).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::common::{
    Endpoint, Home, Patient, Settings, on_both_backends, own_mounts, skip, succeeds, wait_until,
    write, xml,
};
use super::home_with_projects;

on_both_backends!(projects_below_an_automount_are_kept);

/// A daemon that mounts a directory of `source` when the kernel asks, by the protocol of autofs.
///
/// It tries to expire idle mounts five times a second. The numbers are those of `linux/auto_fs.h`.
const AUTOMOUNT: &str = r#"
import ctypes, fcntl, os, select, struct, subprocess, sys

at, source = sys.argv[1:3]
requests, kernel = os.pipe()
os.setpgid(0, 0)
options = f"fd={kernel},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"automount", at.encode(), b"autofs", 0, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.close(kernel)
mounted = os.open(at, os.O_RDONLY)
fcntl.ioctl(mounted, 3 << 30 | 8 << 16 | 0x93 << 8 | 0x64, bytearray(struct.pack("<Q", 1)))
print("ready", flush=True)

def expire():
    # The call waits for an answer to the request that it causes.
    if os.fork() == 0:
        try:
            fcntl.ioctl(mounted, 1 << 30 | 4 << 16 | 0x93 << 8 | 0x66, bytearray(4))
        except OSError:
            pass
        os._exit(0)

poll = select.poll()
poll.register(requests, select.POLLIN)
while True:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    if not poll.poll(200):
        expire()
        continue
    packet = os.read(requests, 304)
    kind, token = struct.unpack("<iI", packet[4:12])
    length = struct.unpack("<I", packet[40:44])[0]
    name = packet[44:44 + length].decode()
    target, origin = os.path.join(at, name), os.path.join(source, name)
    done = False
    if kind == 3 and os.path.isdir(origin):
        os.makedirs(target, exist_ok=True)
        # Two users of the directory may cause two requests.
        done = os.path.ismount(target) or subprocess.call(["mount", "--bind", origin, target]) == 0
    if kind == 4:
        done = subprocess.call(["umount", target]) == 0
        if done:
            os.rmdir(target)
    print("mounted" if kind == 3 else "unmounted", done, flush=True)
    fcntl.ioctl(mounted, 0x93 << 8 | (0x60 if done else 0x61), token)
"#;

/// A running daemon for automounts.
struct Automount {
    daemon: Child,
    lines: BufReader<Patient<ChildStdout>>,
    at: PathBuf,
}

impl Automount {
    /// Starts it. None if the machine cannot.
    fn start(at: &Path, source: &Path) -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", AUTOMOUNT]).args([at, source]);
        let mut daemon = command.stdout(Stdio::piped()).spawn().ok()?;
        let lines = BufReader::new(Patient::of(daemon.stdout.take()?));
        let at = at.to_owned();
        let mut this = Self { daemon, lines, at };
        (this.next() == "ready").then_some(this)
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has ended");
        line.trim_end().to_owned()
    }

    /// Waits until it has done this once more.
    fn expect(&mut self, done: &str) {
        let done = format!("{done} True");
        wait_until(&done, || (self.next() == done).then_some(()));
    }
}

impl Drop for Automount {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.at.to_str().unwrap()]);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Whether the disk of the project is mounted. Looking at it would mount it.
fn is_mounted(home: &Home) -> bool {
    let at = home.at("auto/d0");
    let at = format!(" {} ", at.to_str().unwrap());
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts.contains(&at)
}

/// Writes a snapshot into the disk, which mounts it, and waits for its event.
fn expect_snapshot(home: &Home, endpoint: &Endpoint, tag: &str) {
    let content = xml("d", "disk-0", tag);
    home.write(&format!("auto/d0/snapshots/{tag}.xml"), &content);
    wait_until(&format!("the snapshot {tag}"), || {
        let came = endpoint.all();
        let mut tags = came.iter().map(|one| one.parameter("versionTag"));
        tags.any(|came| came == Some(tag)).then_some(())
    });
}

fn projects_below_an_automount_are_kept(backend: &str) {
    let test = "projects_below_an_automount_are_kept";
    if !own_mounts(test) {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).watch(backend);
    let home = home_with_projects(&settings.repository("poll_interval: 200ms"), 2);
    let source = home.beside("disks");
    let content = |body: &str| xml("d", "disk-0", body);
    write(&source.join("d0/project.xml"), &content("one"));
    write(&source.join("d0/snapshots/v1.xml"), &content("v1"));
    // The organization is the automount, and each of its projects a disk.
    fs::create_dir(home.at("auto")).unwrap();
    let Some(mut automount) = Automount::start(&home.at("auto"), &source) else {
        return skip(test, "needs root, python3 and autofs");
    };
    fs::read(home.at("auto/d0/project.xml")).unwrap();
    assert!(is_mounted(&home));
    // An open file keeps it mounted until the daemon has recorded it.
    let open = fs::File::open(home.at("auto/d0/project.xml")).unwrap();
    let daemon = home.start();
    drop(open);
    expect_snapshot(&home, &endpoint, "s1");
    for tag in ["s2", "s3"] {
        // The daemon's watches do not keep it mounted, and its end is no removal.
        wait_until("the end of the mount", || {
            (!is_mounted(&home)).then_some(())
        });
        daemon.fence();
        expect_snapshot(&home, &endpoint, tag);
        automount.expect("mounted");
    }
    wait_until("the end of the mount", || {
        (!is_mounted(&home)).then_some(())
    });
    assert!(daemon.terminate().success());
    let daemon = home.start();
    daemon.fence();
    expect_snapshot(&home, &endpoint, "s4");
    let events: Vec<String> = endpoint.all().into_iter().map(|one| one.event).collect();
    assert_eq!(events, ["snapshot-create"; 4]);
    assert!(daemon.terminate().success());
}
