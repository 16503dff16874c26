//! A repository whose file system hangs, beside one that works.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::common::{
    Daemon, Endpoint, Home, PATIENCE, Patient, Relay, Run as _, Settings, Webhook, own_mounts,
    skip, succeeds, wait_health, wait_until, write, xml,
};
use super::postgres::{Place, launch, server, start_refused, store, wait_fleet};
use super::{ADMIN, DEFINITION, field, get, is_healthy, put, roots, start, two};

/// A repository that a process serves. It hangs while that process is stopped.
struct Served {
    server: Child,
    at: PathBuf,
}

impl Served {
    /// Serves the directory [`backing`] at `NAME`. Returns `None` without FUSE.
    fn new(home: &Home, name: &str, test: &str) -> Option<Self> {
        if !own_mounts(test) {
            return None;
        }
        if !succeeds("bindfs", &["--version"]) {
            skip(test, "needs bindfs");
            return None;
        }
        let backing = backing(home, name);
        let at = home.beside(name);
        for directory in [&backing, &at] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let server = Command::new("bindfs")
            .args([
                "-f",
                "-o",
                "entry_timeout=0,attr_timeout=0,negative_timeout=0",
            ])
            .args([&backing, &at])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut served = Self { server, at };
        wait_until("a served directory", || {
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let is_mounted = table.contains(&format!(" {} ", served.at.display()));
            let ended = served.server.try_wait().unwrap();
            (is_mounted || ended.is_some()).then_some(())
        });
        if served.server.try_wait().unwrap().is_some() {
            skip(test, "needs FUSE");
            return None;
        }
        Some(served)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it hang, and waits until an engine waits for it.
    fn hang_engine_of(&self, daemon: &Daemon<'_>) {
        self.hang();
        wait_until("a stuck engine", || {
            (n_waiting(daemon, "engine") > 0).then_some(())
        });
    }

    /// Lets it hang, and waits until a watch thread waits for it.
    fn hang_watch_of(&self, daemon: &Daemon<'_>) {
        self.hang();
        daemon.signal(Signal::USR1);
        wait_until("a stuck watch thread", || {
            (n_waiting(daemon, "watch") > 0).then_some(())
        });
    }

    fn answer(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Its end fails all calls that hang.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = succeeds("umount", &["--lazy", &self.at.to_string_lossy()]);
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The directory that is served at `NAME`. It is outside every repository.
fn backing(home: &Home, name: &str) -> PathBuf {
    home.beside(&format!("{}.backing", name.replace('/', "-")))
}

/// The threads with a name.
fn threads(daemon: &Daemon<'_>, name: &str) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    let is_named = |task: &PathBuf| read(&task.join("comm")).trim() == name;
    tasks.filter(is_named).collect()
}

/// The number of threads with a name that wait for a server of FUSE.
fn n_waiting(daemon: &Daemon<'_>, name: &str) -> usize {
    // The function of the kernel in which a thread waits for an answer of FUSE.
    let waits = |task: &PathBuf| read(&task.join("wchan")) == "request_wait_answer";
    let tasks = threads(daemon, name);
    tasks.iter().filter(|task| waits(task)).count()
}

/// Runs a command with this configuration.
fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(config)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .run()
        .unwrap()
}

/// Runs a command with this configuration. Returns its exit status and all that it prints.
fn printed(config: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(config, arguments);
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    (output.status.code(), printed)
}

fn accept(home: &Home) -> (Option<i32>, serde_json::Value, String) {
    let output = run(&home.config(), &["accept", "--yes", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), printed, errors)
}

/// Accepts the held removals, as a client that leaves before the answer.
fn accept_and_leave(home: &Home) {
    let connect = || Patient::of(UnixStream::connect(home.beside("state/control.sock")).unwrap());
    let mut client = connect();
    client.write_all(b"list-held\n").unwrap();
    let mut held = String::new();
    client.read_to_string(&mut held).unwrap();
    let held: serde_json::Value = serde_json::from_str(&held).unwrap();
    let line = format!("accept {}\n", held["token"].as_str().unwrap());
    connect().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_repository_that_hangs_stops_nobody_else() {
    let test = "hung::a_repository_that_hangs_stops_nobody_else";
    let (all, later) = (Endpoint::new(), Endpoint::new());
    let webhook = || Webhook::new("all", &all.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    for project in ["a", "b", "c", "d"] {
        let path = format!("sales/{project}/project.xml");
        put(&home, "models", &path, &xml(project, "", "one"));
    }
    let daemon = start(&home);

    finance.hang_engine_of(&daemon);
    // All projects of the other one vanish.
    let (sales, away) = (home.beside("models/sales"), home.beside("away"));
    std::fs::rename(sales, away).unwrap();
    wait_until("held removals", || {
        (home.json(&["status"])["heldRemovals"]["count"] == 4).then_some(())
    });
    // Nobody waits for the answer, so the removals stay held.
    accept_and_leave(&home);
    let (status, printed, errors) = std::thread::scope(|scope| {
        // The engine of the hung one is asked, too.
        let accepting = scope.spawn(|| accept(&home));
        for _ in 0..20 {
            let page = get(&home, "/");
            assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        }
        assert!(get(&home, "/api/v1/status").starts_with("HTTP/1.1 200 "));
        accepting.join().unwrap()
    });
    assert_eq!(status, Some(1), "{errors}");
    assert_eq!(printed["released"], 4, "{errors}");
    assert_eq!(printed["stuck"], serde_json::json!(["finance"]));
    assert!(
        errors.contains("no answer from the engine of finance"),
        "{errors}"
    );
    all.wait_for(4);

    // As many clients as the control socket serves ask, and leave. Their places become free again.
    for _ in 0..16 {
        let mut client = UnixStream::connect(home.beside("state/control.sock")).unwrap();
        client.write_all(b"list-held\n").unwrap();
    }

    // A reload takes effect for the others, and does not keep a signal to stop waiting.
    let more = Webhook::new("later", &later.url());
    home.reconfigure(&two([webhook(), more]));
    daemon.signal(Signal::HUP);
    wait_until("the new webhook", || {
        let webhooks = home.json(&["status"])["settings"]["webhooks"].clone();
        webhooks.to_string().contains("later").then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    later.wait_for(2);
    daemon.wait_message("finance cannot be read now: it does not answer", 1);
    // The requests have ended, so none of them is reported as lost.
    let before = daemon.n_messages("did not finish within");
    daemon.signal(Signal::TERM);
    daemon.wait_message("inference of finance did not stop in time", 1);
    assert_eq!(daemon.n_messages("did not finish within"), before);
    let mut daemon = daemon;
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// The messages to the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.beside("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// A daemon that sends its messages here.
    fn launch<'a>(&self, home: &'a Home) -> Daemon<'a> {
        let mut command = Daemon::command(home);
        command.env("NOTIFY_SOCKET", home.beside("notify"));
        Daemon::launch(home, command)
    }

    fn wait_ready(&self) {
        wait_until("READY=1", || {
            let is_ready = self.next().lines().any(|line| line == "READY=1");
            is_ready.then_some(())
        });
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4_096];
        let n = self.0.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }
}

#[test]
fn a_repository_that_hangs_at_the_start_can_be_removed_and_added_again() {
    let test = "hung::a_repository_that_hangs_at_the_start_can_be_removed_and_added_again";
    let Some(server) = server(test) else {
        return;
    };
    let store = store(server, &server.database());
    let all = Endpoint::new();
    let webhook = || Webhook::new("all", &all.url());
    let both = two([webhook()]).top(&store);
    let home = Home::new(&both);
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    finance.hang();
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home);
    wait_until("the other repository is watched", || {
        let status = home.json(&["status"]);
        (status["repositories"][0]["ready"] == true).then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);

    // Without it, the start is complete.
    let models = "{ path: ./models, name: models, settle: 300ms }";
    let only = Settings::of([webhook()]).and_repository(models);
    let only = only.top(ADMIN).top(&store);
    home.reconfigure(&only);
    assert!(daemon.reload());
    manager.wait_ready();
    wait_health(&home, "/readyz", 200);
    assert!(is_healthy(&home));

    let ending = home.json(&["status"])["ending"].clone();
    assert_eq!(field(&ending, "name"), ["finance"]);
    assert!(ending[0]["since"].is_string(), "{ending}");
    let shown = home.command(&["status"]);
    assert!(shown.contains("its engine has not ended"), "{shown}");

    // It has one engine at a time. Nobody else may watch it while that has not ended.
    let alone = Settings::of([webhook()]).repository("name: finance");
    let alone = Home::new(&alone.top(ADMIN).top(&store));
    start_refused(&alone, "the repository finance is in the list");
    home.reconfigure(&both);
    assert!(!daemon.reload());
    daemon.wait_message(
        "the former engine of the repository finance has not ended",
        1,
    );
    finance.answer();
    wait_fleet(&home, "/repositories", &serde_json::json!(["models"]));
    assert!(alone.start().terminate().success());
    assert!(home.json(&["status"])["ending"].is_null());
    assert!(daemon.reload());
    wait_health(&home, "/readyz", 200);
    let status = home.json(&["status"]);
    assert_eq!(
        field(&status["repositories"], "name"),
        ["models", "finance"]
    );
    write(
        &backing(&home, "finance").join(DEFINITION),
        &xml("Orders", "e-2", "one"),
    );
    daemon.signal(Signal::USR1);
    all.wait_for(4);
    assert!(daemon.terminate().success());
}

#[test]
fn a_process_becomes_a_standby_although_a_repository_hangs() {
    let test = "hung::a_process_becomes_a_standby_although_a_repository_hangs";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: store(server, &server.database()),
    };
    roots(&home, &["models", "finance", "elsewhere"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    home.configure(&place.list(&["models", "finance"]));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);
    // The other process sees the same repository at another path.
    let elsewhere = home.beside("elsewhere").display().to_string();
    let elsewhere = format!("{{ path: {elsewhere}, name: finance, settle: 300ms }}");
    let other = Home::new(&place.list(&["models"]).and_repository(&elsewhere));
    let standby = launch(&other);
    let waiting = "watches the repositories models, finance in";
    standby.wait_message(waiting, 1);

    finance.hang_engine_of(&daemon);
    daemon.signal(Signal::STOP);
    wait_health(&other, "/readyz", 200);
    daemon.signal(Signal::CONT);
    daemon.wait_message("inference of finance did not stop in time", 1);
    daemon.wait_message(waiting, 1);
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(2);

    // It watches the other repository again, and loses the lease a second time.
    assert!(standby.terminate().success());
    wait_until("the other repository is watched", || {
        let status = home.json(&["status"]);
        (status["repositories"][0]["ready"] == true).then_some(())
    });
    let standby = launch(&other);
    standby.wait_message(waiting, 1);
    daemon.signal(Signal::STOP);
    wait_health(&other, "/readyz", 200);
    daemon.signal(Signal::CONT);
    daemon.wait_message(waiting, 2);
    // The second engine has not touched the repository.
    assert_eq!(threads(&daemon, "engine").len(), 1);

    // The stuck engine ends with its first answer. A new one takes its place.
    finance.answer();
    wait_until("the end of the stuck engine", || {
        threads(&daemon, "engine").is_empty().then_some(())
    });
    assert!(standby.terminate().success());
    wait_health(&home, "/readyz", 200);
    let more = backing(&home, "finance").join(DEFINITION);
    write(&more, &xml("Orders", "e-2", "one"));
    daemon.signal(Signal::USR1);
    endpoint.wait_for(4);
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n(), 4);
}

#[test]
fn a_configuration_whose_disk_hangs_is_reported() {
    let test = "hung::a_configuration_whose_disk_hangs_is_reported";
    let all = Endpoint::new();
    let webhook = Webhook::new("all", &all.url()).with("secret: { file: ./disk/secret }");
    let home = Home::new(&two([webhook]));
    roots(&home, &["models", "finance"]);
    let Some(disk) = Served::new(&home, "disk", test) else {
        return;
    };
    let secret = "a secret of the webhook";
    write(&home.beside("disk.backing/secret"), secret);
    std::fs::copy(home.config(), home.beside("disk.backing/config.yaml")).unwrap();
    let daemon = start(&home);

    disk.hang();
    assert!(!daemon.reload());
    let silent = "disk/secret cannot be read: it does not answer";
    daemon.wait_message(silent, 1);
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);
    assert!(daemon.terminate().success());

    // The disk may answer later, so the service manager has to start it again.
    let (status, errors) = printed(&home.config(), &["run"]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("webhooks[0].secret"), "{errors}");
    assert!(errors.contains(silent), "{errors}");
    for command in ["run", "status", "check", "reload"] {
        let (status, errors) = printed(&home.beside("disk/config.yaml"), &[command]);
        assert_eq!(status, Some(1), "{command}: {errors}");
        let silent = "disk/config.yaml: the configuration cannot be read: it does not answer";
        assert!(errors.contains(silent), "{command}: {errors}");
    }
}

#[test]
fn a_scan_of_a_repository_that_hangs_ends() {
    let test = "hung::a_scan_of_a_repository_that_hangs_ends";
    let home = Home::new(&two([]));
    roots(&home, &["models"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    finance.hang();
    let (status, errors) = printed(&home.config(), &["scan"]);
    assert_eq!(status, Some(1), "{errors}");
    let silent = format!("{} does not answer", finance.at.display());
    assert!(errors.contains(&silent), "{errors}");
    let (status, printed) = printed(&home.config(), &["check"]);
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("cannot be read now"), "{printed}");
}

#[test]
fn repositories_that_overlap_are_found_although_their_disk_hangs() {
    let test = "hung::repositories_that_overlap_are_found_although_their_disk_hangs";
    let home = Home::new(
        &Settings::of([])
            .and_repository("{ path: ./finance, name: finance }")
            .and_repository("{ path: ./link/below, name: below }"),
    );
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    symlink("finance/sales", home.beside("link")).unwrap();
    finance.hang();
    let (status, printed) = printed(&home.config(), &["check"]);
    assert_eq!(status, Some(78), "{printed}");
    assert!(printed.contains("overlap"), "{printed}");
}

#[test]
fn many_repositories_that_hang_do_not_reject_a_reload() {
    let test = "hung::many_repositories_that_hang_do_not_reject_a_reload";
    let list = |n: usize| {
        let models = Settings::of([]).and_repository("{ path: ./models, name: models }");
        (0..n).fold(models.top(ADMIN), |settings, n| {
            settings.and_repository(&format!("{{ path: ./disk/{n}, name: disk-{n} }}"))
        })
    };
    let home = Home::new(&list(0));
    roots(&home, &["models"]);
    let Some(disk) = Served::new(&home, "disk", test) else {
        return;
    };
    let daemon = start(&home);
    disk.hang();
    home.reconfigure(&list(63));
    assert!(daemon.reload());
    assert!(daemon.terminate().success());
}

/// The message that a watch thread does not respond.
const WATCH: &str = "the watch thread does not respond";

fn wait_trouble(home: &Home, part: &str, text: &str) {
    wait_until(&format!("the trouble {part}: {text}"), || {
        let status = home.json(&["status"]);
        let trouble = status["troubles"][part].as_str()?.to_owned();
        trouble.contains(text).then_some(())
    });
}

#[test]
fn a_mount_that_hangs_below_a_root_is_reported_and_stops_no_other_repository() {
    let test = "hung::a_mount_that_hangs_below_a_root_is_reported_and_stops_no_other_repository";
    let all = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &all.url())])
        .and_repository("{ path: ./models, name: models, settle: 300ms, watch: native }")
        .and_repository("{ path: ./finance, name: finance, settle: 300ms }");
    let home = Home::new(&settings.top(ADMIN));
    roots(&home, &["models/hung", "finance"]);
    let Some(hung) = Served::new(&home, "models/hung", test) else {
        return;
    };
    let daemon = start(&home);
    hung.hang_watch_of(&daemon);
    wait_health(&home, "/readyz", 503);
    wait_trouble(&home, "watch", WATCH);
    assert!(get(&home, "/readyz").contains(&format!("models: {WATCH}")));
    // It says where.
    daemon.wait_message("models/hung", 1);
    assert!(get(&home, "/healthz").starts_with("HTTP/1.1 200 "));
    let series = "project_webhooks_trouble{part=\"watch\",repository=\"models\"} 1";
    assert!(get(&home, "/metrics").contains(series));
    put(&home, "finance", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);

    // Changes of the meantime are found once it answers.
    put(&home, "models", DEFINITION, &xml("Orders", "e-2", "one"));
    let below = backing(&home, "models/hung").join("orders/project.xml");
    write(&below, &xml("Orders", "e-3", "one"));
    hung.answer();
    wait_health(&home, "/readyz", 200);
    all.wait_for(6);
    daemon.wait_message("the watch thread responds again", 1);
    assert!(daemon.terminate().success());
}

#[test]
fn a_mount_that_hangs_below_the_root_at_a_start_keeps_the_service_manager_from_waiting() {
    let test =
        "hung::a_mount_that_hangs_below_the_root_at_a_start_keeps_the_service_manager_from_waiting";
    let all = Endpoint::new();
    let home = Home::new(&Settings::all_to(&all).top(ADMIN));
    roots(&home, &["repository/hung"]);
    let Some(hung) = Served::new(&home, "repository/hung", test) else {
        return;
    };
    hung.hang();
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home);
    manager.wait_ready();
    let page = get(&home, "/readyz");
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    assert!(page.contains(WATCH), "{page}");
    assert!(!is_healthy(&home));
    hung.answer();
    wait_health(&home, "/readyz", 200);
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);
    assert!(daemon.terminate().success());
}

#[test]
fn a_reload_names_the_repository_that_applies_it_later() {
    let test = "hung::a_reload_names_the_repository_that_applies_it_later";
    let (all, later) = (Endpoint::new(), Endpoint::new());
    let webhook = || Webhook::new("all", &all.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    let daemon = start(&home);
    finance.hang_engine_of(&daemon);
    home.reconfigure(&two([webhook(), Webhook::new("later", &later.url())]));
    let output = run(&home.config(), &["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("finance: the engine does not respond"),
        "{said}"
    );
    assert!(!said.contains("models: "), "{said}");
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    later.wait_for(2);

    finance.answer();
    daemon.wait_message(
        "the engine responds again and has the new settings of a delayed reload",
        1,
    );
    let below = backing(&home, "finance").join(DEFINITION);
    write(&below, &xml("Orders", "e-2", "one"));
    daemon.signal(Signal::USR1);
    later.wait_for(4);
    assert!(daemon.terminate().success());
}

#[test]
fn rejected_reloads_leave_one_engine_of_a_repository_that_hangs() {
    let test = "hung::rejected_reloads_leave_one_engine_of_a_repository_that_hangs";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: store(server, &server.database()),
    };
    roots(&home, &["models", "finance", "alone"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    let alone = Home::new(&place.single("alone"));
    let other = alone.start();
    home.configure(&place.list(&["models"]));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);

    // The names cannot be recorded, because another process watches one of them.
    finance.hang();
    home.reconfigure(&place.list(&["models", "finance", "alone"]));
    for _ in 0..3 {
        assert!(!daemon.reload());
    }
    daemon.wait_message("is watched alone by", 1);
    daemon.wait_message(
        "the former engine of the repository finance has not ended",
        2,
    );
    for name in ["engine", "watch"] {
        assert!(threads(&daemon, name).len() <= 2, "one of each repository");
    }
    // It is not on record, because it never began.
    wait_fleet(&home, "/repositories", &serde_json::json!(["models"]));
    finance.answer();
    wait_until("the end of its engine", || {
        (threads(&daemon, "engine").len() == 1).then_some(())
    });
    assert!(other.terminate().success());
    home.reconfigure(&place.list(&["models", "finance"]));
    assert!(daemon.reload());
    wait_health(&home, "/readyz", 200);
    assert!(daemon.terminate().success());
}

#[test]
fn a_database_that_does_not_answer_is_no_file_system_that_hangs() {
    let test = "hung::a_database_that_does_not_answer_is_no_file_system_that_hangs";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let endpoint = Endpoint::new();
    let connection = relay.through(&server.connection(&server.database()), server);
    let settings = Settings::all_to(&endpoint).top(ADMIN);
    let home = Home::new(&settings.top(&format!(
        "store: {{ postgres: \"{connection}\", lease: 5m }}"
    )));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);
    relay.silence();
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    wait_health(&home, "/readyz", 503);
    // The reason names no database to a client without the token.
    let page = get(&home, "/readyz");
    assert!(page.contains("the state "), "{page}");
    assert!(!page.contains("disk or network file system"), "{page}");
    assert!(get(&home, "/healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(daemon.n_messages("has not responded"), 0);
}
