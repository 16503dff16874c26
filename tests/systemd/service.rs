//! The installed service: its files where the package puts them, a repository and a receiver.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{wait_until, xml};
use crate::container::{Container, Stage};
use crate::root;

/// The service.
pub const UNIT: &str = "project-webhooks.service";

/// Where its repository is.
pub const REPOSITORY: &str = "/srv/projects";

/// A configuration with one webhook, to this port.
pub fn config(port: u16, webhook: &str) -> String {
    format!(
        "repository: {{ path: {REPOSITORY}, settle: 200ms }}\nstate_dir: /var/lib/project-webhooks\n\
         webhooks:\n  - name: all\n    events: \"*\"\n    url: http://127.0.0.1:{port}/\n    \
         retry: {{ schedule: [0s, 200ms, 1s, 1s, 2s, 2s, 5s, 5s, 5s, 5s] }}\n{webhook}"
    )
}

/// The program and its units, without a configuration; not started.
pub fn installed(add: impl FnOnce(&Stage)) -> Container {
    let stage = Stage::new();
    let program = Path::new(env!("CARGO_BIN_EXE_project-webhooks"));
    stage.put(program, "usr/bin/project-webhooks");
    for (from, to) in [
        ("project-webhooks.service", "usr/lib/systemd/system"),
        ("project-webhooks@.service", "usr/lib/systemd/system"),
        ("sysusers.d/project-webhooks.conf", "usr/lib/sysusers.d"),
        ("tmpfiles.d/project-webhooks.conf", "usr/lib/tmpfiles.d"),
    ] {
        let text = std::fs::read_to_string(root().join("systemd").join(from)).unwrap();
        let name = from.rsplit('/').next().unwrap();
        stage.write(&format!("{to}/{name}"), &text);
    }
    add(&stage);
    let container = stage.boot();
    // As the package does it.
    container.run(&[
        "systemd-sysusers",
        "/usr/lib/sysusers.d/project-webhooks.conf",
    ]);
    container.run(&[
        "systemd-tmpfiles",
        "--create",
        "/usr/lib/tmpfiles.d/project-webhooks.conf",
    ]);
    container.run(&["mkdir", "-p", REPOSITORY]);
    container
}

/// A drop-in of the service.
pub fn drop_in(stage: &Stage, name: &str, text: &str) {
    stage.write(&format!("etc/systemd/system/{UNIT}.d/{name}.conf"), text);
}

impl Container {
    /// Writes the configuration.
    pub fn configure(&self, text: &str) {
        self.write("/etc/project-webhooks/config.yaml", text);
    }

    /// Makes the user, repository and configuration of an instance of the template.
    ///
    /// Returns the instance's repository.
    pub fn add_instance(&self, name: &str, port: u16) -> String {
        let repository = format!("/srv/{name}");
        let full = format!("project-webhooks-{name}");
        self.sh(&format!(
            "systemd-sysusers --inline 'u {full} - - /var/lib/{full}'\n\
             install -d -g {full} -m 2750 /etc/{full}\n\
             mkdir {repository}"
        ));
        let text = config(port, "")
            .replace(REPOSITORY, &repository)
            .replace("/lib/project-webhooks", &format!("/lib/{full}"));
        let text = format!("{text}\nadmin: {{ listen: unix:/run/{full}/admin.sock }}\n");
        let path = format!("/etc/{full}/config.yaml");
        self.write(&path, &text);
        self.run(&["chmod", "640", &path]);
        repository
    }

    /// A receiver on a port; its name is the unit whose log has what came, one object a line.
    pub fn receive(&self, port: u16, arguments: &str) -> String {
        // systemd forgets the name of one that was stopped some time later.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unit = format!("receiver-{port}-{number}");
        self.sh(&format!(
            "systemd-run --quiet --unit {unit} /usr/bin/project-webhooks listen --port {port} \
             --json {arguments}"
        ));
        wait_until("the receiver listens", || {
            self.journal(&unit).contains("127.0.0.1").then_some(())
        });
        unit
    }

    /// The callbacks that a receiver has printed.
    pub fn received(&self, receiver: &str) -> Vec<serde_json::Value> {
        self.journal(receiver)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|value: &serde_json::Value| value.get("event").is_some())
            .collect()
    }

    /// Waits until a receiver has so many snapshots, and gives their tags in the order they came.
    pub fn wait_snapshots(&self, receiver: &str, n: usize) -> Vec<String> {
        wait_until(&format!("{n} snapshots at {receiver}"), || {
            let tags: Vec<String> = self
                .received(receiver)
                .iter()
                .filter(|one| one["event"] == "snapshot-create")
                .filter_map(|one| one["parameters"]["versionTag"].as_str().map(str::to_owned))
                .collect();
            (tags.len() >= n).then_some(tags)
        })
    }

    /// Imports the project `sales/orders`.
    pub fn import(&self, repository: &str) {
        let path = format!("{repository}/sales/orders/project.xml");
        self.write(&path, &xml("Orders", "e-1", "one"));
    }

    /// Takes a snapshot of it.
    pub fn snapshot(&self, repository: &str, tag: &str) {
        let path = format!("{repository}/sales/orders/snapshots/{tag}.xml");
        self.write(&path, &xml("Orders", "e-1", tag));
    }
}
