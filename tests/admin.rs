//! The admin server: nobody who opens its socket can stop the daemon, or blind its health.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{
    Daemon, Endpoint, Home, Patient, Run as _, Settings, skip, succeeds, wait_health, wait_until,
    xml,
};
use tokio::net::TcpSocket;

const SOCKET: &str = "admin: { listen: \"unix:./admin.sock\" }";

fn socket(home: &Home) -> PathBuf {
    home.path().join("admin.sock")
}

/// Connects to the admin server, and sends half a request.
fn half_a_request(home: &Home) -> UnixStream {
    let mut client = UnixStream::connect(socket(home)).unwrap();
    // The server may have closed it for a newer one.
    let _ = client.write_all(b"GET /metrics HT");
    client
}

/// Waits until the health at a TCP address is good.
fn wait_healthy(address: SocketAddr) {
    wait_until("the server", || {
        let mut client = Patient::of(TcpStream::connect(address).ok()?);
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        client.write_all(request).ok()?;
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
}

/// A free address that nobody gets by asking the system for any port.
fn free_address() -> SocketAddr {
    static N_TAKEN: AtomicU32 = AtomicU32::new(0);
    // Tests run in parallel, so that each gets ports of its own.
    let first = 20_000 + std::process::id() % 10_000 + 100 * N_TAKEN.fetch_add(1, Ordering::SeqCst);
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut ports = (first..32_768).filter_map(|port| u16::try_from(port).ok());
    // It does not listen, because a child that another test starts now would go on listening.
    let is_free = |port: &u16| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        socket.bind(address).is_ok()
    };
    address(ports.find(is_free).unwrap())
}

fn at(endpoint: &Endpoint, listen: impl std::fmt::Display) -> Settings {
    Settings::all_to(endpoint).top(&format!("admin: {{ listen: \"{listen}\" }}"))
}

#[test]
fn half_a_request_delays_neither_a_reload_nor_the_end() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).top(SOCKET);
    let home = Home::new(&settings);
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let before_reload = half_a_request(&home);
    // Without a server at the socket, the reload has to wait for its end.
    home.configure(&Settings::all_to(&endpoint));
    assert!(daemon.reload());
    home.configure(&settings);
    assert!(daemon.reload());
    let before_end = half_a_request(&home);
    wait_health(&home, "/readyz", 200);
    assert_eq!(daemon.terminate().code(), Some(0));
    drop((before_reload, before_end));
}

#[test]
fn clients_that_send_half_a_head_are_cut_off_and_half_a_command_delays_nothing() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let halves = ["", "G", "GET /x HT", "GET /healthz HTTP/1.1\r\nhost: x\r\n"];
    let mut clients = halves.map(|half| {
        let mut client = Patient::of(UnixStream::connect(socket(&home)).unwrap());
        client.write_all(half.as_bytes()).unwrap();
        client
    });
    let half_a_command = || {
        let mut client = UnixStream::connect(home.path().join("state/control.sock")).unwrap();
        client.write_all(b"relo").unwrap();
        client
    };
    let before_reload = half_a_command();
    assert!(daemon.reload());
    for (half, client) in halves.iter().zip(&mut clients) {
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer);
        assert!(read.is_ok(), "{half:?} is not cut off: {read:?}");
        assert!(!answer.contains(" 200 "), "{half:?}: {answer}");
    }
    wait_health(&home, "/healthz", 200);
    let before_end = half_a_command();
    assert_eq!(daemon.terminate().code(), Some(0));
    drop((before_reload, before_end));
}

#[test]
fn idle_connections_stop_neither_the_work_nor_health() {
    const TEST: &str = "idle_connections_stop_neither_the_work_nor_health";
    if !succeeds("prlimit", &["--version"]) {
        return skip(TEST, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let pid = daemon.pid().to_string();
    assert!(succeeds("prlimit", &["--pid", &pid, "--nofile=200"]));
    let idle: Vec<_> = (0..300).map(|_| half_a_request(&home)).collect();
    // The last of them is accepted before these, or it is closed.
    for n in 0..10 {
        home.write(
            &format!("sales/project{n}/project.xml"),
            &xml("Project", &format!("p{n}"), ""),
        );
    }
    endpoint.wait_for(10);
    wait_health(&home, "/healthz", 200);
    assert_eq!(daemon.n_messages("Too many open files"), 0);
    drop(idle);
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    // A socket that a daemon left.
    drop(UnixListener::bind(socket(&home)).unwrap());
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let mode = std::fs::metadata(socket(&home))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);

    // A file with a content.
    let file = home.path().join("file");
    std::fs::write(&file, "content").unwrap();
    home.configure(&at(&endpoint, "unix:./file"));
    assert!(!daemon.reload());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    assert_eq!(check(&home), Some(78));

    // A socket that somebody listens at.
    let path = home.path().join("other.sock");
    let other = UnixListener::bind(&path).unwrap();
    home.configure(&at(&endpoint, "unix:./other.sock"));
    assert!(!daemon.reload());
    drop(UnixStream::connect(&path).unwrap());
    drop(other);
    wait_health(&home, "/readyz", 200);

    home.configure(
        &Settings::all_to(&endpoint)
            .top("admin: { listen: \"unix:./admin.sock\", mode: \"0600\" }"),
    );
    assert!(daemon.reload());
    let mode = std::fs::metadata(socket(&home))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // The daemon's own database.
    assert!(daemon.terminate().success());
    let database = std::fs::read(home.database()).unwrap();
    home.configure(&at(&endpoint, "unix:./state/state.db"));
    let refused = Daemon::command(&home).run().unwrap();
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(std::fs::read(home.database()).unwrap() == database);
    home.configure(&Settings::all_to(&endpoint).top(SOCKET));
    assert!(home.start().terminate().success());
}

fn check(home: &Home) -> Option<i32> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config()).arg("check");
    command.run().unwrap().status.code()
}

#[test]
fn an_address_that_was_taken_at_the_start_is_bound_once_it_is_free() {
    let endpoint = Endpoint::new();
    let address = free_address();
    let taken = TcpListener::bind(address).unwrap();
    let home = Home::new(&at(&endpoint, address));
    let daemon = home.start();
    daemon.wait_message("cannot listen", 1);
    // It is no reason to reject other changes.
    assert!(daemon.reload());
    drop(taken);
    wait_healthy(address);
}

#[test]
fn a_reload_moves_the_server_to_all_addresses_of_its_port() {
    let endpoint = Endpoint::new();
    let address = free_address();
    let home = Home::new(&at(&endpoint, address));
    let daemon = home.start();
    wait_healthy(address);
    home.configure(&at(&endpoint, format!("0.0.0.0:{}", address.port())));
    assert!(daemon.reload());
    let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
    wait_healthy(other);
    // A reload that fails leaves the server where it was.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    home.configure(&at(&endpoint, taken.local_addr().unwrap()));
    assert!(!daemon.reload());
    wait_healthy(other);
}

#[test]
fn sockets_that_were_removed_come_back() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    std::fs::remove_file(socket(&home)).unwrap();
    std::fs::remove_file(home.path().join("state/control.sock")).unwrap();
    wait_until("the sockets", || {
        let is_there = |path: PathBuf| UnixStream::connect(path).is_ok();
        (is_there(socket(&home)) && is_there(home.path().join("state/control.sock"))).then_some(())
    });
    wait_health(&home, "/readyz", 200);
    assert!(daemon.reload());
}

#[test]
fn requests_for_other_hosts_and_from_web_pages_are_refused() {
    let endpoint = Endpoint::new();
    let settings = |port: u16| {
        Settings::all_to(&endpoint).top(&format!(
            "admin: {{ listen: \"127.0.0.1:{port}\", hosts: [metrics.example.com] }}"
        ))
    };
    let port = free_address().port();
    let home = Home::new(&settings(port));
    let _daemon = home.start();
    let status = |head: &str| {
        // The daemon may be ready a moment before its server listens.
        let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
        let mut stream = Patient::of(wait_until("the server", connect));
        let request = format!("GET /healthz HTTP/1.1\r\n{head}connection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
            .split(' ')
            .nth(1)
            .map(str::to_owned)
            .unwrap_or_default()
    };
    for (head, expected) in [
        (format!("host: 127.0.0.1:{port}\r\n"), "200"),
        (format!("host: localhost:{port}\r\n"), "200"),
        ("host: metrics.example.com\r\n".to_owned(), "200"),
        (format!("host: attacker.example:{port}\r\n"), "403"),
        (
            "host: localhost\r\norigin: http://attacker.example\r\n".to_owned(),
            "403",
        ),
    ] {
        assert_eq!(status(&head), expected, "{head}");
    }
}

/// The value of the metric of projects.
fn metric_of_projects(home: &Home) -> String {
    let connect = || UnixStream::connect(socket(home)).ok();
    let mut client = Patient::of(wait_until("the server", connect));
    client
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let line = answer
        .lines()
        .find(|line| line.starts_with("project_webhooks_projects "));
    line.unwrap().to_owned()
}

#[test]
fn only_directories_with_a_definition_count_as_projects() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    std::fs::create_dir_all(home.at("sales/empty")).unwrap();
    home.write("sales/notes/readme.txt", "no project");
    home.write(
        "sales/loose/published/v1/project.xml",
        &xml("loose", "e-1", ""),
    );
    home.write("sales/orders/project.xml", &xml("orders", "e-2", ""));
    assert_eq!(home.json(&["scan"])["projects"], 1);
    let daemon = home.start();
    let ready = daemon.wait_log("ready", |entry| {
        entry.message().starts_with("ready: watching")
    });
    assert_eq!(ready.0["projects"], 1);
    let count = |n: usize| {
        wait_until(&format!("{n} projects"), || {
            let is_counted = home.json(&["status"])["projects"] == n;
            let metric = format!("project_webhooks_projects {n}");
            (is_counted && metric_of_projects(&home) == metric).then_some(())
        });
    };
    count(1);
    home.write("sales/more/project.xml", &xml("more", "e-3", ""));
    home.write(
        "sales/more/published/v1/project.xml",
        &xml("more", "e-3", "v1"),
    );
    daemon.fence();
    count(2);
    // The published copy stays on record, and is no project.
    home.remove("sales/more/project.xml");
    endpoint.wait_for_one("the delete", |one| one.event == "project-delete");
    count(1);
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_message("full scan finished", 2);
    count(1);
    daemon.terminate();
    assert_eq!(home.json(&["status"])["projects"], 1);
    assert_eq!(home.json(&["scan"])["projects"], 1);
}
