//! Start and stop, as an operator sees them.

use crate::can_boot;
use crate::common::{wait_until, xml};
use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};

#[test]
fn it_is_started_when_it_watches_or_knows_what_it_waits_for() {
    if !can_boot("it_is_started_when_it_watches_or_knows_what_it_waits_for") {
        return;
    }
    let container = installed(|_| {});
    container.configure(&config(9000, ""));
    let receiver = container.receive(9000, "");
    // The repository is mounted only after the start began, and arrives in the sandbox.
    container.sh(&format!(
        "rmdir {REPOSITORY}; systemctl enable --now project-webhooks"
    ));
    assert_eq!(container.property(UNIT, "ActiveState"), "active");
    let status = container.property(UNIT, "StatusText");
    assert!(status.contains("is missing ("), "{status}");
    container.run(&["systemctl", "reload", UNIT]);
    let status = container.property(UNIT, "StatusText");
    assert!(status.contains("is missing ("), "{status}");
    container.sh(&format!(
        "mkdir {REPOSITORY}; mount -t tmpfs -o mode=755 projects {REPOSITORY}"
    ));
    container.import(REPOSITORY);
    // The first full scan is recorded, and later changes are noticed.
    wait_until("it watches", || {
        let status = container.property(UNIT, "StatusText");
        status.starts_with("watching 1 project").then_some(())
    });
    container.snapshot(REPOSITORY, "s1");
    assert_eq!(container.wait_snapshots(&receiver, 1), ["s1"]);

    // Its state is its own.
    let owned = container.sh("stat --format='%U %G %a' /var/lib/project-webhooks");
    assert_eq!(owned.trim(), "project-webhooks project-webhooks 700");
    let files = container
        .sh("find /var/lib/project-webhooks -mindepth 1 ! -type s -printf '%u %m\\n' | sort -u");
    assert_eq!(files.trim(), "project-webhooks 600");
    let user =
        container.sh("ps -o user= -p \"$(systemctl show --value -p MainPID project-webhooks)\"");
    assert!(user.starts_with("project"), "{user}");

    // Root can ask for the status.
    let status = container.run(&["project-webhooks", "status"]);
    assert!(status.contains("all"), "{status}");

    // The log has fields to search by.
    container.run(&["journalctl", "--sync"]);
    let found = container.run(&[
        "journalctl",
        "--quiet",
        "--output=cat",
        "PROJECT=sales/orders",
        "WEBHOOK=all",
    ]);
    assert!(!found.is_empty());
    let fields = container.run(&["journalctl", "--quiet", "--output=json", "WEBHOOK=all"]);
    for field in ["EVENT_ID", "PROJECT", "ATTEMPT"] {
        assert!(
            fields.contains(&format!("\"{field}\"")),
            "{field}: {fields}"
        );
    }
}

#[test]
fn it_stops_in_time_though_a_receiver_hangs() {
    if !can_boot("it_stops_in_time_though_a_receiver_hangs") {
        return;
    }
    let container = installed(|_| {});
    // The system accepts connections, and nobody answers.
    container.sh(
        "systemd-run --quiet --unit hangs --socket-property=ListenStream=127.0.0.1:9000 \
         sleep infinity",
    );
    container.configure(&config(9000, "    timeout: 1h\n"));
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    wait_until("an attempt is under way", || {
        container
            .output(&["systemctl", "is-active", "hangs.service"])
            .status
            .success()
            .then_some(())
    });
    container.run(&["systemctl", "stop", UNIT]);
    // It gave up by itself before a timeout killed it, and logs the consequence.
    assert_eq!(container.property(UNIT, "Result"), "success");
    assert_eq!(container.property(UNIT, "ExecMainStatus"), "0");
    let log = container.journal_of_all();
    assert!(log.contains("did not finish within"), "{log}");
    // The delivery is kept.
    let kept = container.run(&["project-webhooks", "deliveries", "--json"]);
    assert!(kept.contains("\"pending\""), "{kept}");
}

#[test]
fn an_invalid_configuration_is_reported_once_and_not_restarted() {
    if !can_boot("an_invalid_configuration_is_reported_once_and_not_restarted") {
        return;
    }
    let container = installed(|stage| {
        drop_in(stage, "quick", "[Service]\nRestartSec=100ms\n");
    });
    container.configure(&config(9000, "").replace("settle", "setle"));
    let (status, _) = container.try_run(&["systemctl", "start", UNIT]);
    assert_ne!(status, Some(0));
    assert_eq!(container.property(UNIT, "ActiveState"), "failed");
    assert_eq!(container.property(UNIT, "ExecMainStatus"), "78");
    assert_eq!(container.property(UNIT, "NRestarts"), "0");
    let (_, status) = container.try_run(&["systemctl", "status", UNIT]);
    assert!(
        status.contains("setle") && status.contains("settle"),
        "{status}"
    );

    // systemd retries after other failures: here another daemon uses the state directory.
    container.configure(&config(9000, ""));
    container.sh(
        "install -d -o project-webhooks -g project-webhooks -m 700 /var/lib/project-webhooks\n\
         install -o project-webhooks -m 600 /dev/null /var/lib/project-webhooks/lock\n\
         systemd-run --quiet --unit holder --uid project-webhooks \
         flock /var/lib/project-webhooks/lock sleep infinity",
    );
    wait_until("the lock is taken", || {
        container
            .output(&["flock", "-n", "/var/lib/project-webhooks/lock", "true"])
            .status
            .code()
            .filter(|code| *code == 1)
    });
    container.run(&["systemctl", "start", "--no-block", UNIT]);
    wait_until("a retry", || {
        let restarts = container.property(UNIT, "NRestarts");
        (restarts.parse::<u32>().unwrap() >= 2).then_some(())
    });
    assert!(container.journal(UNIT).contains("status=75"));
    container.run(&["systemctl", "stop", "holder"]);
    container.wait_property(UNIT, "ActiveState", "active");
}

#[test]
fn credentials_and_a_group_come_by_drop_ins() {
    if !can_boot("credentials_and_a_group_come_by_drop_ins") {
        return;
    }
    let example = |name: &str| {
        let path = crate::root().join(format!("systemd/examples/{name}.conf"));
        std::fs::read_to_string(path).unwrap()
    };
    let container = installed(|stage| {
        drop_in(stage, "credentials", &example("credentials"));
        drop_in(stage, "group", &example("group"));
        drop_in(stage, "home", &example("home"));
    });
    // A repository in a home, that only a group can read.
    let repository = "/home/ada/projects";
    container.sh(&format!(
        "groupadd projects; useradd --create-home ada; chmod 711 /home/ada; mkdir {repository}\n\
         chown ada:projects {repository}; chmod 2750 {repository}\n\
         install -d -m 700 /etc/project-webhooks/credentials; umask 077\n\
         echo whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz \
           >/etc/project-webhooks/credentials/catalog-secret\n\
         echo 'Bearer t' >/etc/project-webhooks/credentials/catalog-token"
    ));
    let secrets = "    headers: { Authorization: { credential: catalog-token } }\n    \
                   secret: { credential: catalog-secret }\n";
    container.configure(&config(9000, secrets).replace(REPOSITORY, repository));
    let receiver = container.receive(9000, "--secret whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz");
    container.run(&["systemctl", "start", UNIT]);
    // Theirs from the moment they are there.
    container.write(
        "/home/ada/new/orders/project.xml",
        &xml("Orders", "e-1", "one"),
    );
    container.write(
        "/home/ada/new/orders/snapshots/s1.xml",
        &xml("Orders", "e-1", "s1"),
    );
    container.sh(&format!(
        "chown -R ada:projects /home/ada/new; chmod -R o-rwx /home/ada/new\n\
         mv /home/ada/new {repository}/sales"
    ));
    container.wait_snapshots(&receiver, 1);
    for callback in container.received(&receiver) {
        assert_eq!(callback["signature"], "verified", "{callback}");
        // The owner's name, not `nobody`.
        assert_eq!(callback["parameters"]["username"], "ada", "{callback}");
    }
    // A reload does not need them in the command's own environment.
    container.run(&["systemctl", "reload", UNIT]);
    // They are nobody else's.
    let (status, _) = container.try_run(&[
        "setpriv",
        "--reuid=ada",
        "--clear-groups",
        "cat",
        "/run/credentials/project-webhooks.service/catalog-secret",
    ]);
    assert_ne!(status, Some(0));
}

#[test]
fn the_template_runs_several_repositories() {
    if !can_boot("the_template_runs_several_repositories") {
        return;
    }
    let container = installed(|_| {});
    let mut receivers = Vec::new();
    for (port, name) in [(9001, "sales"), (9002, "finance")] {
        let repository = container.add_instance(name, port);
        receivers.push((container.receive(port, ""), repository));
        container.run(&["systemctl", "start", &format!("project-webhooks@{name}")]);
    }
    for (receiver, repository) in &receivers {
        container.import(repository);
        container.snapshot(repository, "s1");
        container.wait_snapshots(receiver, 1);
    }
    for name in ["sales", "finance"] {
        let unit = format!("project-webhooks@{name}");
        container.run(&["systemctl", "reload", &unit]);
        let full = format!("project-webhooks-{name}");
        let owned = container.sh(&format!("stat --format='%U %G %a' /var/lib/{full}"));
        assert_eq!(owned.trim(), format!("{full} {full} 700"));
        container.sh(&format!("test -S /run/{full}/admin.sock"));
    }
    // One stops, the other goes on.
    container.run(&["systemctl", "stop", "project-webhooks@sales"]);
    let (receiver, repository) = &receivers[1];
    container.snapshot(repository, "s2");
    container.wait_snapshots(receiver, 2);
}

/// The state directory of the main service contains a file with the name of this instance.
#[test]
fn an_instance_shares_no_files_with_another_daemon() {
    if !can_boot("an_instance_shares_no_files_with_another_daemon") {
        return;
    }
    let container = installed(|_| {});
    container.configure(&config(9000, ""));
    container.run(&["chmod", "640", "/etc/project-webhooks/config.yaml"]);
    let mut receivers = vec![(container.receive(9000, ""), REPOSITORY.to_owned())];
    let mut units = vec![UNIT.to_owned()];
    for (port, name) in [(9001, "lock"), (9002, "state")] {
        let repository = container.add_instance(name, port);
        receivers.push((container.receive(port, ""), repository));
        units.push(format!("project-webhooks@{name}.service"));
    }
    // The instances are first, so that their directories are there when the main service starts.
    for unit in units.iter().rev() {
        container.run(&["systemctl", "start", unit]);
    }
    for (receiver, repository) in &receivers {
        container.import(repository);
        container.snapshot(repository, "s1");
        assert_eq!(container.wait_snapshots(receiver, 1), ["s1"]);
    }
    let users: Vec<String> = units
        .iter()
        .map(|unit| container.property(unit, "User"))
        .collect();
    let files: Vec<String> = users
        .iter()
        .flat_map(|user| {
            [
                format!("/etc/{user}/config.yaml"),
                format!("/var/lib/{user}/state.db"),
            ]
        })
        .collect();
    for user in &users {
        for file in &files {
            let (status, said) = container.try_run(&[
                "setpriv",
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--init-groups",
                "test",
                "-r",
                file,
            ]);
            let is_own = file.contains(&format!("/{user}/"));
            assert_eq!(status == Some(0), is_own, "{user} reads {file}: {said}");
        }
    }
}
