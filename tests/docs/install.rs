//! The installation: the shown commands, with scripts in place of the system's tools.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::blocks::{self, root};
use crate::patience::Run as _;
use crate::process::program;

/// Scripts in place of programs: `sudo` runs its arguments, `install` writes below
/// `$DESTINATION`, and the others log their calls.
const SCRIPTS: [(&str, &str); 7] = [
    ("sudo", "exec \"$@\""),
    (
        "install",
        "exec /usr/bin/install \"$1\" \"$2\" \"$DESTINATION$3\"",
    ),
    ("cargo", "echo cargo \"$@\" >>\"$DESTINATION/called\""),
    (
        "systemctl",
        "echo systemctl \"$@\" >>\"$DESTINATION/called\"",
    ),
    (
        "systemd-sysusers",
        "echo systemd-sysusers \"$@\" >>\"$DESTINATION/called\"",
    ),
    (
        "systemd-tmpfiles",
        "echo systemd-tmpfiles \"$@\" >>\"$DESTINATION/called\"",
    ),
    ("chgrp", "echo chgrp \"$@\" >>\"$DESTINATION/called\""),
];

#[test]
fn the_installation_puts_every_file_where_the_unit_looks_for_it() {
    let block = blocks::only("install");
    let temporary = tempfile::tempdir().unwrap();
    let destination = temporary.path().join("destination");
    let checkout = temporary.path().join("checkout");
    let scripts = temporary.path().join("played");
    for directory in [&destination, &checkout.join("target/release"), &scripts] {
        std::fs::create_dir_all(directory).unwrap();
    }
    for name in ["systemd", "packaging"] {
        symlink(root().join(name), checkout.join(name)).unwrap();
    }
    symlink(program(), checkout.join("target/release/project-webhooks")).unwrap();
    for (name, script) in SCRIPTS {
        let path = scripts.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new("sh")
        .args(["-eu", "-c", &block.text])
        .current_dir(&checkout)
        .env("PATH", format!("{}:/usr/bin:/bin", scripts.display()))
        .env("DESTINATION", &destination)
        .run()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let unit = "usr/lib/systemd/system/project-webhooks.service";
    let unit = std::fs::read_to_string(destination.join(unit)).unwrap();
    let start = setting(&unit, "ExecStart");
    let words: Vec<&str> = start.split(' ').collect();
    let ["/usr/bin/project-webhooks", "--config", config, "run"] = words.as_slice() else {
        panic!("{start}")
    };
    let below = |path: &str| destination.join(path.trim_start_matches('/'));
    assert!(below("/usr/bin/project-webhooks").is_file());
    assert!(below(config).is_file());
    let users = below("/usr/lib/sysusers.d/project-webhooks.conf");
    let users = std::fs::read_to_string(users).unwrap();
    let user = setting(&unit, "User");
    assert!(
        users
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some(user))
    );
    // The template and the package install the same files.
    assert!(below("/usr/lib/systemd/system/project-webhooks@.service").is_file());
    assert!(below("/usr/lib/tmpfiles.d/project-webhooks.conf").is_file());
    // 78 is an invalid configuration, which no restart fixes.
    assert_eq!(setting(&unit, "RestartPreventExitStatus"), "78");
    assert_eq!(called(&destination), 5);
}

#[test]
fn the_package_is_built_by_its_script_and_started_by_hand() {
    let build = blocks::only("package").text;
    assert!(
        build.lines().any(|line| line == "packaging/build-deb"),
        "{build}"
    );
    assert!(root().join("packaging/build-deb").is_file());
    // tests/systemd installs and starts the package itself.
    let start = blocks::only("package-start").text;
    let lines: Vec<&str> = start.lines().collect();
    assert_eq!(
        lines,
        [
            "sudo project-webhooks --config /etc/project-webhooks/config.yaml check",
            "sudo systemctl enable --now project-webhooks"
        ]
    );
}

#[test]
fn the_static_program_is_built_as_ci_builds_it() {
    // .ci/run builds it for this target, and runs its demo.
    const TARGET: &str = "x86_64-unknown-linux-musl";
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains(&format!("target={TARGET}\n")));
    let block = blocks::only("static").text;
    assert_eq!(block.lines().count(), 3);
    assert!(block.lines().all(|line| line.contains(TARGET)), "{block}");
}

fn called(destination: &Path) -> usize {
    let text = std::fs::read_to_string(destination.join("called")).unwrap();
    text.lines().count()
}

fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    unit.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_drop_in_gives_the_credentials_that_the_configuration_names() {
    let drop_in = blocks::only("unit");
    let mut lines = drop_in.text.lines();
    assert_eq!(lines.next(), Some("[Service]"));
    let configurations: String = blocks::all()
        .into_iter()
        .filter(|block| block.kind() == "config")
        .map(|block| block.text)
        .collect();
    for line in lines {
        let (name, value) = line.split_once('=').unwrap();
        match name {
            "SupplementaryGroups" => assert!(!value.is_empty()),
            "LoadCredential" => {
                let (id, path) = value.split_once(':').unwrap();
                assert!(path.starts_with('/'));
                let named = format!("credential: {id} ");
                assert!(configurations.contains(&named), "{id}");
            }
            _ => panic!("{line}"),
        }
    }
}
