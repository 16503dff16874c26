//! The Debian package, as `packaging/build-deb` makes it: installed, upgraded, purged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Run as _, wait_until};
use crate::container::{Container, Stage};
use crate::service::{REPOSITORY, UNIT, config, installed};
use crate::{can_boot, root, skip};

/// Packages this build under a version. It is faster to make and larger than a release.
fn build(directory: &Path, version: &str) -> PathBuf {
    let output = Command::new(root().join("packaging/build-deb"))
        .args(["--program", env!("CARGO_BIN_EXE_project-webhooks")])
        .args(["--fast", "--offline", "--deb-version", version])
        .env("CARGO_TARGET_DIR", directory)
        .run()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Every path that a package could leave behind, without the logs of package managers.
fn paths(container: &Container) -> BTreeSet<String> {
    const NOTES: &str = "-path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/systemd \
                         -o -path /var/lib/PackageKit";
    container
        .sh(&format!(
            "find /etc /usr /var/lib /run/systemd/system -xdev \\( {NOTES} \\) -prune -o -print"
        ))
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_purge_removes_the_state_of_instances_and_nothing_else() {
    if !can_boot("a_purge_removes_the_state_of_instances_and_nothing_else") {
        return;
    }
    let script = root().join("packaging/debian/postrm");
    let container = installed(|stage| stage.put(&script, "root/postrm"));
    for (port, name) in [(9001, "sales"), (9002, "lock")] {
        container.add_instance(name, port);
    }
    container.sh("install -d -o project-webhooks /var/lib/project-webhooks\n\
         for name in sales lock; do\n\
             install -d -o project-webhooks-$name /var/lib/project-webhooks-$name\n\
         done\n\
         install -d /var/lib/project-webhooks-backup\n\
         install -d -o project-webhooks-sales /var/lib/project-webhooks-kept\n\
         touch /var/lib/project-webhooks-note /var/lib/project-webhooks-sales/state.db");
    let left = || container.sh("ls -d /var/lib/project-webhooks*");
    let before = left();
    container.sh("sh /root/postrm remove");
    assert_eq!(left(), before);
    container.sh("sh /root/postrm purge");
    let expected =
        ["backup", "kept", "note"].map(|name| format!("/var/lib/project-webhooks-{name}\n"));
    assert_eq!(left(), expected.concat());
    container.sh("test -e /etc/project-webhooks-sales/config.yaml; sh /root/postrm purge");
}

#[test]
fn the_package_is_installed_upgraded_and_purged() {
    const TEST: &str = "the_package_is_installed_upgraded_and_purged";
    if !can_boot(TEST) {
        return;
    }
    if Command::new("cargo-deb").arg("--version").run().is_err() {
        return skip(TEST, "no cargo-deb (cargo install cargo-deb)");
    }
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new();
    for version in ["0.0.1-1", "99.0.0-1"] {
        let package = build(directory.path(), version);
        stage.put(&package, &format!("root/{version}.deb"));
    }
    // Images of containers forbid packages to start services; machines do not.
    stage.write("usr/sbin/policy-rc.d", "");
    let container = stage.boot();
    // They do not leave out documentation either.
    container.sh("rm -rf /etc/dpkg/dpkg.cfg.d/*");
    // The user stays after a purge, by policy, so its entries are no difference.
    container.run(&[
        "touch",
        "/etc/passwd-",
        "/etc/shadow-",
        "/etc/group-",
        "/etc/gshadow-",
    ]);
    let before = paths(&container);

    // Installed and not started, because there is no repository to watch yet.
    let apt = |arguments: &str| {
        container.sh(&format!(
            "apt-get --quiet --yes -o APT::Sandbox::User=root {arguments}"
        ));
    };
    apt("install /root/0.0.1-1.deb");
    assert_eq!(container.property(UNIT, "UnitFileState"), "disabled");
    assert_eq!(container.property(UNIT, "ActiveState"), "inactive");
    let (status, said) = container.try_run(&["systemctl", "--failed", "--quiet"]);
    assert_eq!(
        (status, said.contains("webhooks")),
        (Some(0), false),
        "{said}"
    );
    let owned =
        container.sh("stat --format='%U %G %a' /etc/project-webhooks /etc/project-webhooks/*");
    assert_eq!(
        owned,
        "root project-webhooks 2750\nroot project-webhooks 640\n"
    );
    // Silent, and with an exit status of 0 on anything it does not know.
    for unit in [UNIT, "project-webhooks@sales.service"] {
        let verified = container.try_run(&["systemd-analyze", "verify", unit]);
        assert_eq!(verified, (Some(0), String::new()), "{unit}");
        container.run(&[
            "systemd-analyze",
            "security",
            "--no-pager",
            "--threshold=15",
            unit,
        ]);
    }
    // So are the examples; one is for a newer systemd than there may be.
    let examples = "/usr/share/doc/project-webhooks/examples";
    for (of, unit) in [
        (UNIT, UNIT),
        (
            "project-webhooks@.service",
            "project-webhooks@sales.service",
        ),
    ] {
        for name in ["audit", "credentials", "group", "home", "memory", "nfs"] {
            let directory = format!("/etc/systemd/system/{of}.d");
            container.sh(&format!(
                "mkdir -p {directory}; cp {examples}/{name}.conf {directory}"
            ));
            let verified = container.try_run(&["systemd-analyze", "verify", unit]);
            assert_eq!(verified, (Some(0), String::new()), "{name} of {unit}");
            if name == "audit" {
                let exposure = [
                    "systemd-analyze",
                    "security",
                    "--no-pager",
                    "--threshold=16",
                    unit,
                ];
                container.run(&exposure);
            }
            container.sh(&format!("rm -r {directory}"));
        }
    }
    // The generated files equal the output of the program.
    container.sh(
        "zcat /usr/share/man/man1/project-webhooks.1.gz >/tmp/1; project-webhooks man | cmp - /tmp/1\n\
         zcat /usr/share/man/man5/project-webhooks-config.5.gz >/tmp/5\n\
         project-webhooks man 5 | cmp - /tmp/5\n\
         project-webhooks completions bash \
           | cmp - /usr/share/bash-completion/completions/project-webhooks\n\
         project-webhooks completions zsh | cmp - /usr/share/zsh/vendor-completions/_project-webhooks\n\
         project-webhooks completions fish \
           | cmp - /usr/share/fish/vendor_completions.d/project-webhooks.fish\n\
         bash -n /usr/share/bash-completion/completions/project-webhooks\n\
         rm /tmp/1 /tmp/5",
    );
    // The configuration that comes with it is valid, and does nothing yet.
    container.run(&["project-webhooks", "check"]);

    // In use: enabled, with a pending delivery; and an instance.
    container.run(&["mkdir", "-p", REPOSITORY]);
    container.configure(&config(9000, ""));
    container.add_instance("sales", 9001);
    let units = [UNIT, "project-webhooks@sales.service"];
    for unit in units {
        container.run(&["systemctl", "enable", "--quiet", "--now", unit]);
    }
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "s1");
    wait_until("it is recorded", || {
        let events = container.run(&["project-webhooks", "events"]);
        events.contains("Snapshot Create").then_some(())
    });
    let started = units.map(|unit| container.property(unit, "MainPID"));

    // Upgraded: the new program runs with the administrator's configuration, nothing is lost.
    apt("install /root/99.0.0-1.deb");
    for (unit, before) in units.iter().zip(&started) {
        container.wait_property(unit, "ActiveState", "active");
        assert_ne!(container.property(unit, "MainPID"), *before, "{unit}");
    }
    let kept = container.sh("cat /etc/project-webhooks/config.yaml");
    assert_eq!(kept, config(9000, ""));
    let receiver = container.receive(9000, "");
    assert_eq!(container.wait_snapshots(&receiver, 1), ["s1"]);

    // Removed: stopped, and the state is still there.
    apt("remove project-webhooks");
    let (status, _) = container.try_run(&["pgrep", "--exact", "--full", "project-webhooks.* run"]);
    assert_eq!(status, Some(1));
    container
        .sh("test -d /var/lib/project-webhooks-sales; test -e /etc/project-webhooks/config.yaml");

    // Purged: only the files of the administrator are left.
    container.sh("mkdir /var/lib/project-webhooks-backup");
    apt("purge project-webhooks");
    container.sh(
        "test -e /etc/project-webhooks-sales/config.yaml; rm -r /etc/project-webhooks-sales\n\
         rmdir /var/lib/project-webhooks-backup",
    );
    container.sh("systemctl disable --quiet project-webhooks@sales || true");
    container
        .sh("rm -f /etc/systemd/system/multi-user.target.wants/project-webhooks@sales.service");
    let after = paths(&container);
    let differing: Vec<&String> = after.symmetric_difference(&before).collect();
    assert!(differing.is_empty(), "{differing:?}");
}
