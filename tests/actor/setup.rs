//! What `check` and the daemon report about the set-up, and the daemon as an ordinary user.

use std::process::Command;

use super::audit::Audit;
use super::common::{Daemon, Endpoint, Home, Settings, in_time, skip, succeeds, wait_until, xml};
use super::{events, give, home, put, run_as};

fn warnings(home: &Home) -> String {
    let report = home.json(&["check"]);
    assert_eq!(report["valid"], true);
    report["warnings"].to_string()
}

#[test]
fn check_reports_what_is_missing() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(mut audit) = Audit::without_rules("check_reports") else {
        return;
    };
    const NO_RULE: &str = "no audit rule with the key project-webhooks";
    const OFF: &str = "auditing is off";
    assert!(warnings(&home).contains(NO_RULE));
    assert!(!warnings(&home).contains(OFF));
    audit.add(&home.at(""), "other");
    assert!(warnings(&home).contains(NO_RULE), "another key");
    audit.add(home.path(), "project-webhooks");
    assert!(!warnings(&home).contains(NO_RULE), "a directory above");
    let command = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let is_early = !command.split_whitespace().any(|word| word == "audit=1");
    assert_eq!(
        warnings(&home).contains("processes that started before"),
        is_early
    );
    audit.limit(64);
    assert!(warnings(&home).contains("room for only 64 records"));
    audit.enable(0);
    assert!(warnings(&home).contains(OFF));
    // The rules of the package, with another path.
    let rules = include_str!("../../packaging/audit/project-webhooks.rules");
    let wanted = "-a always,exit -F dir=/srv/projects -F perm=wa -F key=project-webhooks";
    assert!(rules.lines().any(|line| line == wanted), "{rules}");
    // Without the source, nothing is checked.
    home.configure(&Settings::all_to(&endpoint));
    assert!(!warnings(&home).contains("audit"));
}

#[test]
fn the_rules_of_the_package_work_with_auditctl() {
    let test = "the_rules_of_the_package";
    if !succeeds("auditctl", &["-v"]) {
        return skip(test, "needs auditctl");
    }
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(audit) = Audit::without_rules(test) else {
        return;
    };
    let path = home.at("").canonicalize().unwrap();
    let rules = include_str!("../../packaging/audit/project-webhooks.rules");
    let rules = rules.replace("/srv/projects", path.to_str().unwrap());
    std::fs::write(home.beside("test.rules"), &rules).unwrap();
    let file = home.beside("test.rules");
    assert!(succeeds("auditctl", &["-R", file.to_str().unwrap()]));
    assert!(!warnings(&home).contains("no audit rule"));
    let path = path.to_str().unwrap();
    let dir = format!("dir={path}");
    let rule = [
        "-d",
        "always,exit",
        "-F",
        &dir,
        "-F",
        "perm=wa",
        "-F",
        "key=project-webhooks",
    ];
    assert!(succeeds("auditctl", &rule));
    drop(audit);
}

#[test]
fn an_ordinary_user_needs_the_capability_to_read_only() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(_audit) = Audit::of("an_ordinary_user", &home.at("")) else {
        return;
    };
    let mut names = (0..10).map(|n| format!("a{n}"));
    for name in names.clone().chain(["b".to_owned()]) {
        put(
            &home.at(&format!("org/{name}/project.xml")),
            &xml(&name, "", &name),
        );
    }
    give(&home.at("org"));
    give(home.path());
    let as_user = |more: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=3009",
            "--regid=3009",
            "--clear-groups",
            "--no-new-privs",
        ]);
        command
            .args(more)
            .arg(env!("CARGO_BIN_EXE_project-webhooks"));
        command.arg("--config").arg(home.config()).arg("run");
        command.current_dir("/").env_remove("NOTIFY_SOCKET");
        command
    };
    let capable = [
        "--inh-caps=-all,+audit_read",
        "--ambient-caps=-all,+audit_read",
        "--bounding-set=-all,+audit_read",
    ];
    let daemon = Daemon::launch(&home, as_user(&capable));
    daemon.wait_ready();
    let wait = |project: &str| {
        wait_until("a delete", || {
            events(&home).into_iter().find(|one| one.project == project)
        })
    };
    // On a busy machine, a record may come later than the daemon waits. Then the next source counts.
    in_time(|| {
        let project = format!("org/{}", names.next().unwrap());
        let file = home.at(&format!("{project}/project.xml"));
        run_as(3001, &format!("rm -f '{}'", file.display()));
        let found = wait(&project);
        let is_named = found.from == "audit";
        let (name, source) = if is_named {
            ("3001", "audit")
        } else {
            ("4000", "owner")
        };
        assert_eq!((&*found.username, &*found.from), (name, source));
        is_named
    });
    daemon.terminate();

    let daemon = Daemon::launch(&home, as_user(&[]));
    daemon.wait_ready();
    daemon.wait_message("needs CAP_AUDIT_READ", 1);
    run_as(
        3001,
        &format!("rm -f '{}'", home.at("org/b/project.xml").display()),
    );
    let found = wait("org/b");
    assert_eq!(
        (found.username.as_str(), found.from.as_str()),
        ("4000", "owner")
    );
    let status = home.json(&["status"]);
    assert!(
        status["actor"]["failure"]
            .as_str()
            .unwrap()
            .contains("CAP_AUDIT_READ")
    );
}

#[test]
fn in_a_user_namespace_the_next_source_is_used() {
    let endpoint = Endpoint::new();
    let mut settings = Settings::all_to(&endpoint);
    settings.username = "[audit, \"value:nobody knows\"]";
    let home = Home::new(&settings);
    if !succeeds("unshare", &["-U", "-r", "true"]) {
        return skip("in_a_user_namespace", "no user namespaces");
    }
    let mut command = Command::new("unshare");
    command
        .args(["-U", "-r"])
        .arg(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config()).arg("run");
    command.current_dir("/").env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    daemon.wait_message("cannot work in a container", 1);
    home.write("org/a/project.xml", &xml("a", "", "a"));
    let found = wait_until("an import", || events(&home).into_iter().next());
    assert_eq!(found.username, "nobody knows");
}

#[test]
fn without_a_rule_one_warning_says_what_to_do() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(_audit) = Audit::without_rules("without_a_rule") else {
        return;
    };
    let daemon = home.start();
    for name in ["a", "b", "c", "d", "e", "f"] {
        home.write(&format!("org/{name}/project.xml"), &xml(name, "", name));
        wait_until("an import", || {
            let project = format!("org/{name}");
            events(&home).into_iter().find(|one| one.project == project)
        });
    }
    assert_eq!(
        daemon.n_messages("no audit record shows who made a change"),
        1
    );
    wait_until("the count of misses", || {
        let status = home.json(&["status"]);
        (status["actor"]["missed"].as_u64().unwrap() >= 6).then_some(())
    });
}
