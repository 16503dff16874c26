//! The configuration in the current directory, which may belong to somebody else.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use crate::support::{Place, Ran, program, run, webhook};

/// A user who is neither root nor the caller.
const OTHER: u32 = 424_242;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command in a directory, without naming a configuration.
fn run_in(directory: &Path, arguments: &[&str]) -> Ran {
    let mut command = program();
    command.current_dir(directory).args(arguments);
    run(command)
}

#[test]
fn a_configuration_that_others_may_write_is_ignored() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let place = Place::new(&webhook("catalog", &url));
    let (directory, config) = (place.path(""), place.path("config.yaml"));
    mode(&directory, 0o755);
    run_in(&directory, &["check"]).succeeded();

    let test = ["webhooks", "test", "catalog"];
    let refused = |reason: &str| {
        let said = run_in(&directory, &test).failed(78);
        assert!(
            said.contains("./config.yaml: is ignored: ") && said.contains(reason),
            "{said}"
        );
        // The user may name it.
        place.run(&["check"]).succeeded();
    };
    mode(&config, 0o666);
    refused("everybody may write to ./config.yaml");
    mode(&config, 0o644);
    mode(&directory, 0o1777);
    refused("everybody may write to its directory");
    mode(&directory, 0o755);
    if rustix::process::geteuid().is_root() {
        chown(&config, Some(OTHER), None).unwrap();
        refused("neither root nor you");
        chown(&config, Some(0), None).unwrap();
        chown(&directory, Some(OTHER), None).unwrap();
        refused("its directory belongs to the user");
        chown(&directory, Some(0), None).unwrap();
        // A link is as trusted as the file that it leads to.
        let elsewhere = place.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(&config, elsewhere.join("config.yaml")).unwrap();
        symlink("elsewhere/config.yaml", &config).unwrap();
        run_in(&directory, &["check"]).succeeded();
        mode(&elsewhere, 0o777);
        refused("everybody may write to the directory of the link's target");
    }
    // No request was sent.
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

/// The owner of a directory above decides whether the path of the current directory is readable.
#[test]
fn a_directory_whose_path_cannot_be_read_is_checked_as_well() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let mut directory = File::open(place.path("")).unwrap();
    // The kernel allows no path of this length in a call.
    for _ in 0..21 {
        let name = "a".repeat(200);
        mkdirat(&directory, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = File::from(openat(&directory, &name, flags, Mode::empty()).unwrap());
    }
    let here = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let config = here.join("config.yaml");
    let text = fs::read_to_string(place.path("config.yaml")).unwrap();
    fs::write(&config, text).unwrap();
    let refused = |reason: &str| {
        let said = run_in(&here, &["check"]).failed(78);
        assert!(
            said.contains(&format!("./config.yaml: is ignored: {reason}")),
            "{said}"
        );
    };
    mode(&here, 0o777);
    refused("everybody may write to its directory");
    mode(&here, 0o755);
    // Nobody can say where the link leads to.
    fs::rename(&config, here.join("other.yaml")).unwrap();
    symlink("other.yaml", &config).unwrap();
    refused("./config.yaml cannot be checked: ");
}

#[test]
fn the_file_that_is_read_instead_is_named() {
    const IN_NAMESPACE: &str = "mount -t tmpfs tmpfs /etc && mkdir /etc/project-webhooks && \
                                cp config.yaml /etc/project-webhooks && chmod 666 config.yaml && \
                                exec \"$0\" \"$@\"";
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let mut command = Command::new("unshare");
    let program = program();
    command.args(["--mount", "sh", "-c", IN_NAMESPACE]);
    command
        .arg(program.get_program())
        .args(["webhooks", "--json"]);
    let ran = run({
        command.current_dir(place.path(""));
        command
    });
    if ran.err.contains("unshare failed") {
        let said = "skipped: the_file_that_is_read_instead_is_named: needs root";
        let _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    assert!(
        ran.err
            .contains("./config.yaml: is ignored, and /etc/project-webhooks/config.yaml is read"),
        "{}",
        ran.err
    );
    assert_eq!(ran.json()[0]["name"], "catalog");
}
