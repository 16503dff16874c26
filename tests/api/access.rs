//! The token, sessions of browsers, and pages of other sites.

use super::client::{Answer, Server, TOKEN, bearer, free_address};
use super::common::{Endpoint, Home, wait_health, wait_until, xml};
use super::{admin, refusing, settings, with_api};

const FORM: &str = "content-type: application/x-www-form-urlencoded";
const JSON: &str = "content-type: application/json";
const HTML: &str = "accept: text/html";
const HOST: &str = "host: localhost";

fn login(server: &Server, token: &str) -> Answer {
    server.send("POST", "/login", &[HOST, FORM], &format!("token={token}"))
}

/// The header with the cookie of a login.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("; httponly; samesite=strict"), "{cookie}");
    format!("cookie: a=b; {}; c=d", cookie.split(';').next().unwrap())
}

#[test]
fn only_health_needs_no_token() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = server.send("GET", path, &[HOST], "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let wrong = bearer("0123456789abcdef0123456789abcdeX");
    let longer = bearer(&format!("{TOKEN}0"));
    for path in [
        "/api/v1/status",
        "/api/v1/openapi.json",
        "/api/v1/stream",
        "/api/v1/nothing",
        "//api/v1/status",
        "/api/v1/status/",
        "/%61pi/v1/status",
        "/healthz/../api/v1/status",
        "/",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS", "DELETE"] {
            let answer = server.send(method, path, &[HOST], "");
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
            assert!(answer.header("www-authenticate").is_some());
            assert!(!answer.head.contains("access-control"), "{answer:?}");
        }
    }
    for line in [
        wrong.as_str(),
        &longer,
        "authorization: Bearer",
        "authorization: Bearer ",
        "authorization: Basic eDp4",
        "cookie: project-webhooks-session=",
        "cookie: project-webhooks-session=99999999999.00",
    ] {
        let answer = server.send("GET", "/api/v1/status", &[HOST, line], "");
        assert_eq!(answer.status, 401, "{line}: {answer:?}");
    }
    assert_eq!(server.get("/api/v1/status").status, 200);
    // A browser is sent to the form.
    let answer = server.send("GET", "/", &[HOST, "accept: text/html"], "");
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/login"))
    );
    assert_eq!(server.send("GET", "/login", &[HOST], "").status, 200);
}

#[test]
fn a_browser_logs_in_and_its_session_is_safe_from_other_sites() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    assert_eq!(login(&server, "wrong").status, 401);
    let answer = login(&server, TOKEN);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/")));
    let cookie = cookie(&answer);
    let get = |lines: &[&str]| {
        let lines = [&[cookie.as_str()], lines].concat();
        server.send("GET", "/api/v1/status", &lines, "").status
    };
    let post = |lines: &[&str]| {
        let lines = [&[cookie.as_str(), JSON], lines].concat();
        server
            .send("POST", "/api/v1/webhooks/good/enable", &lines, "{}")
            .status
    };
    assert_eq!(get(&[HOST]), 200);
    assert_eq!(get(&[HOST, "sec-fetch-site: same-origin"]), 200);
    assert_eq!(get(&[HOST, "sec-fetch-site: cross-site"]), 403);
    assert_eq!(get(&["host: attacker.example"]), 403);
    assert_eq!(post(&[HOST, "origin: http://localhost"]), 200);
    assert_eq!(post(&[HOST, "sec-fetch-site: same-origin"]), 200);
    // Nothing shows that a page of this server sent it.
    assert_eq!(post(&[HOST]), 403);
    for foreign in [
        "origin: http://attacker.example",
        "origin: http://localhost:8080",
        "origin: null",
        "sec-fetch-site: same-site",
        "sec-fetch-site: cross-site",
    ] {
        assert_eq!(post(&[HOST, foreign]), 403, "{foreign}");
        let lines = [HOST, FORM, foreign];
        let answer = server.send("POST", "/login", &lines, &format!("token={TOKEN}"));
        assert_eq!(answer.status, 403, "{foreign}");
    }
    // A form of another site needs no permission of the browser, but it is no JSON.
    for content_type in [
        FORM,
        "content-type: text/plain",
        "content-type: multipart/form-data",
    ] {
        let lines = [
            cookie.as_str(),
            HOST,
            "origin: http://localhost",
            content_type,
        ];
        let answer = server.send("POST", "/api/v1/webhooks/good/enable", &lines, "{}");
        assert_eq!(answer.status, 415, "{content_type}");
    }
    let mut followed = server.stream_with(&cookie);
    assert_eq!(followed.next().unwrap().name, "ready");
    let other = self::cookie(&login(&server, TOKEN));
    let out = server.send("POST", "/logout", &[HOST, &cookie], "");
    assert!(out.header("set-cookie").unwrap().contains("max-age=0"));
    // The session ends at the server too: a copy of the cookie is worth nothing.
    assert_eq!(get(&[HOST]), 401);
    assert_eq!(post(&[HOST, "origin: http://localhost"]), 401);
    home.write("sales/one/project.xml", &xml("One", "one", ""));
    assert!(followed.next().is_none(), "the stream of the session ends");

    // Another token ends the other session; a reload with the same one does not.
    let get = |lines: &[&str]| {
        let lines = [&[other.as_str()], lines].concat();
        server.send("GET", "/api/v1/status", &lines, "").status
    };
    assert!(daemon.reload());
    assert_eq!(get(&[HOST]), 200);
    let Server::Tcp(address) = server else {
        unreachable!()
    };
    let changed = admin(address).replace(TOKEN, "another-token-of-32-characters!!");
    home.reconfigure(&settings(&good, &bad, &changed));
    assert!(daemon.reload());
    assert_eq!(get(&[HOST]), 401);
    // The first token again does not bring the session back.
    home.reconfigure(&settings(&good, &bad, &admin(address)));
    assert!(daemon.reload());
    assert_eq!(get(&[HOST]), 401);
}

#[test]
fn wrong_tokens_are_limited_and_the_right_one_always_works() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let statuses: Vec<u16> = (0..12).map(|_| login(&server, "wrong").status).collect();
    assert_eq!(statuses, [[401; 10].as_slice(), &[429; 2]].concat());
    let wrong = bearer("0123456789abcdef0123456789abcdeX");
    let limited = server.send("GET", "/api/v1/status", &[HOST, &wrong], "");
    assert_eq!(limited.status, 429, "{limited:?}");
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let reason = limited.json()["error"].as_str().unwrap().to_owned();
    assert!(reason.contains(&format!("{wait} s")), "{reason}");
    // A browser gets a page with the form.
    let page = server.send("POST", "/login", &[HOST, FORM, HTML], "token=wrong");
    assert_eq!(page.status, 429);
    let kind = page.header("content-type").unwrap();
    assert!(kind.starts_with("text/html"), "{page:?}");
    let wait = page.header("retry-after").unwrap();
    assert!(page.body.contains(&format!("{wait} s")), "{page:?}");
    assert!(page.body.contains("name=\"token\""), "{page:?}");
    // The right token is no guess.
    assert_eq!(server.get("/api/v1/status").status, 200);
    let session = cookie(&login(&server, TOKEN));
    let answer = server.send("GET", "/api/v1/status", &[HOST, &session], "");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_browser_gets_pages_also_when_it_is_refused() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    let form = |path: &str, body: &str| {
        let token = bearer(TOKEN);
        let own = "sec-fetch-site: same-origin";
        let lines = [HOST, FORM, HTML, own, token.as_str()];
        server.send("POST", path, &lines, body)
    };
    let is_page = |answer: &Answer| {
        let kind = answer.header("content-type").unwrap_or_default();
        kind.starts_with("text/html")
    };
    let expired = server.send("POST", "/webhooks/good/disable", &[HOST, FORM, HTML], "");
    assert_eq!(
        (expired.status, expired.header("location")),
        (303, Some("/login"))
    );
    for (path, body, status) in [
        ("/nothing", "", 404),
        ("/deliveries/bulk", &*"x".repeat(70_000), 413),
        (
            "/deliveries/bulk",
            &*format!("webhook={}", "x".repeat(2_000)),
            400,
        ),
    ] {
        let answer = form(path, body);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(is_page(&answer), "{path}: {answer:?}");
    }
    let Server::Tcp(address) = &server else {
        unreachable!()
    };
    let without = format!("admin: {{ listen: \"{address}\" }}");
    home.reconfigure(&settings(&good, &bad, &without));
    assert!(daemon.reload());
    for (method, path) in [("GET", "/"), ("POST", "/login")] {
        let closed = server.send(method, path, &[HOST, FORM, HTML], "");
        assert_eq!(closed.status, 403, "{path}: {closed:?}");
        assert!(is_page(&closed), "{path}: {closed:?}");
        assert!(closed.body.contains("admin.token"), "{path}: {closed:?}");
    }
}

#[test]
fn a_request_names_one_host_and_one_origin() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let status = |lines: &[&str]| {
        let token = bearer(TOKEN);
        let lines = [&[token.as_str()], lines].concat();
        server.send("GET", "/api/v1/webhooks", &lines, "").status
    };
    for host in ["localhost:1", "127.0.0.1", "[::1]:9417", "[::1]"] {
        assert_eq!(status(&[&format!("host: {host}")]), 200, "{host}");
    }
    for host in [
        "[::1]evil",
        "[::1].evil.example",
        "[::1]:1evil",
        "[localhost]",
        "[127.0.0.1]",
        "localhost:",
        "localhost:x",
        "localhost:1:2",
        "localhost:99999",
        "a@localhost",
        "localhost/evil",
        "127.0.0.1.evil.example",
        "[::1",
        "::1",
        "",
    ] {
        let found = status(&[&format!("host: {host}")]);
        assert!(matches!(found, 400 | 403), "{host}: {found}");
    }
    for twice in [
        [HOST, HOST],
        ["origin: http://localhost", "origin: http://localhost"],
        ["origin: http://localhost", "origin: http://evil.example"],
        ["sec-fetch-site: same-origin", "sec-fetch-site: same-origin"],
        ["sec-fetch-site: none", "sec-fetch-site: cross-site"],
        ["sec-fetch-mode: navigate", "sec-fetch-mode: cors"],
    ] {
        let mut lines = vec![HOST];
        lines.extend(twice);
        let found = status(&lines);
        assert!(matches!(found, 400 | 403), "{twice:?}: {found}");
    }
}

#[test]
fn without_a_token_only_a_socket_has_the_api() {
    let (good, bad) = (Endpoint::new(), refusing());
    let listen = |listen: &str| format!("admin: {{ listen: \"{listen}\" }}");
    let home = Home::new(&settings(&good, &bad, &listen("unix:./admin.sock")));
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let socket = Server::Unix(home.beside("admin.sock"));
    let enable = |lines: &[&str]| {
        socket
            .send("POST", "/api/v1/webhooks/good/enable", lines, "")
            .status
    };
    let answer = socket.send("GET", "/api/v1/status", &["host: x"], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(enable(&["host: x"]), 200);
    // A proxy may let browsers reach the socket.
    assert_eq!(enable(&["host: x", "origin: http://attacker.example"]), 403);

    let address = free_address();
    home.reconfigure(&settings(&good, &bad, &listen(&address.to_string())));
    assert!(daemon.reload());
    let tcp = Server::Tcp(address);
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/api/v1/status", 403),
        ("/api/v1/openapi.json", 403),
        ("/", 403),
        ("/login", 403),
    ] {
        assert_eq!(tcp.get(path).status, status, "{path}");
    }
    assert_eq!(login(&tcp, TOKEN).status, 403);

    // With a token, a socket needs it as well.
    home.reconfigure(&settings(&good, &bad, &admin("unix:./admin.sock")));
    assert!(daemon.reload());
    let status = |lines: &[&str]| socket.send("GET", "/api/v1/status", lines, "").status;
    wait_until("the token", || (status(&["host: x"]) == 401).then_some(()));
    assert_eq!(status(&["host: x", &bearer(TOKEN)]), 200);
}
