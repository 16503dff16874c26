//! The page, as a browser without JavaScript gets it.

use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use project_webhooks::receiver::Reply;
use serde_json::Value;

use super::client::{Answer, Server, TOKEN, bearer, free_address};
use super::common::{Endpoint, Home, Webhook, wait_until, xml};
use super::{admin, refusing, settings, three_projects, with_api};

/// The maximum total size of the files of the page and its first view, in bytes.
const SIZE_MAX: usize = 150_000;

const OWN: &str = "sec-fetch-site: same-origin";

/// Gets a view with the token.
fn view(server: &Server, path: &str) -> Answer {
    let lines = ["host: localhost", "accept: text/html", &bearer(TOKEN)];
    server.send("GET", path, &lines, "")
}

/// Sends a form with the token and one more line of the head.
fn form(server: &Server, path: &str, line: &str, body: &str) -> Answer {
    let token = bearer(TOKEN);
    let content_type = "content-type: application/x-www-form-urlencoded";
    let lines = ["host: localhost", &token, content_type, line];
    server.send("POST", path, &lines, body)
}

/// The id of the first item of a listing.
fn first(server: &Server, path: &str) -> String {
    let page = server.json(path);
    page["items"][0]["id"]
        .to_string()
        .trim_matches('"')
        .to_owned()
}

/// A home with markup in every field that a file or a receiver fills, and secrets in the settings.
fn hostile(good: &Endpoint, bad: &Endpoint, moved: &Endpoint) -> (Home, Server) {
    let address = free_address();
    let mut settings = settings(good, bad, &admin(address));
    settings.username = "[\"annotation:author\"]";
    settings.webhooks.push(
        Webhook::new("moved", &format!("{}?token=hush", moved.url()))
            .schedule("[0s, 1h]")
            .events("[project-publish]")
            .with("headers: { X-Key: hush-header }")
            .with("auth: { basic: { username: hush-user, password: hush-password } }")
            .with("secret: hush-secret"),
    );
    let home = Home::new(&settings);
    (home, Server::Tcp(address))
}

/// An endpoint that sends clients elsewhere.
fn moving() -> Endpoint {
    Endpoint::answering(|_| {
        let mut reply = Reply::status(StatusCode::FOUND);
        let location = HeaderValue::from_static("/<script>alert('location')?token=hush");
        reply.headers.insert(LOCATION, location);
        reply
    })
}

/// Writes a published project with markup in its organization, version, id and author.
fn publish_markup(home: &Home, server: &Server) {
    let content = "<schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"P\"><annotations>\
        <annotation name=\"engineId\">&lt;script>id</annotation>\
        <annotation name=\"author\">&lt;script>author</annotation></annotations></schema>";
    home.write("<script>org/p/project.xml", content);
    home.write("<script>org/p/published/<script>tag/project.xml", content);
    wait_until("the attempt of the redirected delivery", || {
        let pending = server.json("/api/v1/deliveries?webhook=moved&state=pending");
        (pending["items"][0]["attempts"] == 1).then_some(())
    });
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// The views, and the parts that each has to show.
fn views(server: &Server) -> Vec<(String, Vec<String>)> {
    let event = first(
        server,
        "/api/v1/events?event=project-import-any&project=%3Cb%3Eproject1",
    );
    let publish = first(server, "/api/v1/events?event=project-publish");
    let dead = first(server, "/api/v1/deliveries?state=dead");
    let moved = first(server, "/api/v1/deliveries?webhook=moved");
    let status = server.json("/api/v1/status");
    let ignored = &status["incomplete"][0];
    let (line, reason) = (&ignored["line"], ignored["reason"].as_str().unwrap());
    let redirected = "the answer was 302 Found; redirects are not followed \
                      (to /%3Cscript%3Ealert('location'))";
    let row = "moved</a></td><td><span class=\"state good\">on</span></td><td>1</td><td><time";
    let table: &[(&str, &[&str])] = &[
        (
            "/",
            &[
                "bad/ &lt;b&gt;",
                "3 deliveries to bad/ &lt;b&gt; failed for good.",
                "Fix the cause, then redeliver the <a href=\"/deliveries?webhook=bad%2F%20%3Cb%3E&amp;state=dead\">",
                "1 file ignored: incomplete, invalid or unreadable.",
                "See the <a href=\"/files\">",
                "Attempts in the last hour, by minute: ",
                "<rect class=\"good\"",
                "<rect class=\"bad\"",
                "Time from change to callback in the last hour; the mean of the slowest minute is ",
                "<rect class=\"wait\"",
                row,
                redirected,
            ],
        ),
        (
            "/webhooks",
            &[
                "Webhook bad/ &lt;b&gt;",
                "<strong>Last error</strong> <time",
                redirected,
                "<dt>Oldest pending</dt><dd><time",
                "<dt>Next attempt</dt><dd><time",
                "?token=…",
            ],
        ),
        (
            "/deliveries",
            &["sales/&lt;b&gt;project", "&lt;script&gt;org/p"],
        ),
        (
            "/deliveries?project=%3Cb%3Eproject1",
            &["sales/&lt;b&gt;project1"],
        ),
        (
            "/deliveries?event=project-publish&since=1h",
            &["&lt;script&gt;org/p", ">moved</td>"],
        ),
        ("/deliveries?until=1h", &["No deliveries."]),
        (&format!("/deliveries/{dead}"), &["&lt;script&gt;alert(1)"]),
        (
            &format!("/deliveries/{moved}"),
            &[
                redirected,
                "Attempt 1: ",
                ", took ",
                "<summary>Request headers</summary>",
                "<dt>webhook-id</dt>",
                "<dt>webhook-event</dt><dd>project-publish</dd>",
            ],
        ),
        (
            "/events",
            &["sales/&lt;b&gt;project", "&lt;script&gt;org/p"],
        ),
        (
            "/events?event=project-publish&since=1h",
            &["<td>Project Publish</td>"],
        ),
        ("/events?until=1h", &["No events."]),
        (
            &format!("/events/{event}"),
            &[
                "&lt;script&gt;alert(",
                "<dt>Because</dt><dd>a definition appeared",
                "<dt>Before</dt><dd>nothing</dd>",
                "<dt>After</dt><dd><code>sales/&lt;b&gt;project1/project.xml</code>",
                "<dt>Who</dt>",
                "it does not subscribe to Project Import - Any",
            ],
        ),
        (
            &format!("/events/{publish}"),
            &[
                "Project Publish of &lt;script&gt;org/p",
                "<dt>versionTag</dt><dd>&lt;script&gt;tag</dd>",
                "<dt>projectId</dt><dd>&lt;script&gt;id</dd>",
                "<dt>username</dt><dd>&lt;script&gt;author</dd>",
                "<dt>organizationName</dt><dd>&lt;script&gt;org</dd>",
                "<dt>Username from</dt>",
                "it does not subscribe to Project Publish",
            ],
        ),
        (
            &format!("/events/{event}/payload"),
            &["&amp;lt;script&gt;alert("],
        ),
        (
            "/deliveries/bulk?action=redeliver&project=%3Cb%3Eproject1",
            &["&lt;b&gt;project1"],
        ),
        (
            "/files",
            &[
                "sales/&lt;i&gt;broken/project.xml",
                &format!("<td>{line}</td>"),
                &escaped(reason),
            ],
        ),
        (
            "/settings",
            &[
                "Webhook bad/ &lt;b&gt;",
                "<dt>headers</dt><dd>x-key</dd>",
                "<dt>auth</dt><dd>basic</dd>",
                "<dt>secret</dt><dd>1 secret</dd>",
                "<dt>admin.token</dt><dd>set</dd>",
                "?token=…",
            ],
        ),
        ("/%3Cscript%3Ealert", &["There is no page at this address"]),
        (
            "/deliveries?webhook=%3Cscript%3Ealert",
            &["&lt;script&gt;alert"],
        ),
        ("/events?since=%3Cscript%3Ealert", &["since must be"]),
    ];
    let owned = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    let views = table
        .iter()
        .map(|(path, parts)| ((*path).to_owned(), owned(parts)));
    views.collect()
}

#[test]
fn every_view_shows_text_of_strangers_as_text() {
    let (good, bad, moved) = (Endpoint::new(), refusing(), moving());
    let (home, server) = hostile(&good, &bad, &moved);
    let _daemon = home.start();
    three_projects(&home, &server);
    publish_markup(&home, &server);
    home.write("sales/<i>broken/project.xml", "<schema name='<img src=x>'");
    wait_until("the ignored file", || {
        let status = server.json("/api/v1/status");
        (!status["incomplete"].as_array().unwrap().is_empty()).then_some(())
    });
    for (path, expected) in views(&server) {
        let answer = view(&server, &path);
        for part in expected {
            assert!(answer.body.contains(&part), "{path}: {part}: {answer:?}");
        }
        let content_type = answer.header("content-type").unwrap();
        assert!(content_type.starts_with("text/html"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("script-src 'self'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        let body = answer.body.to_lowercase();
        // The only script is the file of the page, and nothing else could run.
        let scripts: Vec<&str> = body.split("<script").skip(1).collect();
        assert_eq!(scripts.len(), 1, "{path}: {body}");
        assert!(
            scripts[0].starts_with(" src=\"/page.js\""),
            "{path}: {body}"
        );
        for harm in [
            "<b>project",
            "<i>broken",
            "<img",
            "javascript:",
            " style=",
            "<style",
        ] {
            assert!(!body.contains(harm), "{path}: {harm}: {body}");
        }
        assert!(!body.contains("http://") || path != "/", "{path}: {body}");
        // The token and secrets are never part of a view.
        for secret in [TOKEN, "hush"] {
            assert!(!body.contains(secret), "{path}: {secret}: {body}");
        }
    }
}

#[test]
fn the_page_is_small_and_needs_the_token() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let html = ["host: localhost", "accept: text/html"];
    let mut size = 0;
    for path in ["/login", "/page.css", "/page.js", "/icon.svg"] {
        let answer = server.send("GET", path, &html, "");
        assert_eq!(answer.status, 200, "{path}");
        size += answer.body.len();
    }
    size += view(&server, "/").body.len();
    assert!(size < SIZE_MAX, "{size}");
    for path in [
        "/",
        "/webhooks",
        "/deliveries",
        "/events",
        "/files",
        "/settings",
    ] {
        let answer = server.send("GET", path, &html, "");
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some("/login")),
            "{path}"
        );
        assert_eq!(view(&server, path).status, 200, "{path}");
    }
    let wrong = form(&server, "/login", OWN, "token=0123456789abcdef");
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.contains("The token is wrong"), "{wrong:?}");
}

#[test]
fn the_texts_of_a_form_that_looks_like_json_are_bounded() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let (half, long) = ("x".repeat(1_000), "x".repeat(1_025));
    for body in [
        format!("{{=1&action=cancel&expected=0&webhook={long}"),
        // Valid JSON, whose texts are short.
        format!("{{\"=1&action=cancel&expected=0&webhook=\":[\"{half}\",\"{half}\"]}}"),
    ] {
        let answer = form(&server, "/deliveries/bulk", OWN, &body);
        assert_eq!(answer.status, 400, "{answer:?}");
        let error = "webhook is longer than 1,024 bytes";
        assert!(answer.body.contains(error), "{answer:?}");
    }
}

#[test]
fn forms_act_only_for_pages_of_this_server() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    let dead = first(&server, "/api/v1/deliveries?state=dead");
    let redeliver = format!("/deliveries/{dead}/redeliver");
    for foreign in [
        "accept: text/html",
        "sec-fetch-site: cross-site",
        "origin: http://evil.example",
    ] {
        let answer = form(&server, &redeliver, foreign, "");
        assert_eq!(answer.status, 403, "{foreign}: {answer:?}");
        let answer = form(&server, "/webhooks/good/disable", foreign, "");
        assert_eq!(answer.status, 403, "{foreign}: {answer:?}");
    }
    let answer = form(&server, &redeliver, OWN, "");
    let location = format!("/deliveries/{dead}");
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some(&*location)),
        "{answer:?}"
    );
    wait_until("the second attempt", || {
        let found = server.json(&format!("/api/v1/deliveries/{dead}"));
        (found["state"] == "dead" && found["log"].as_array()?.len() == 2).then_some(())
    });
    let answer = form(
        &server,
        "/webhooks/good/disable",
        "origin: http://localhost",
        "",
    );
    assert_eq!(answer.status, 303, "{answer:?}");
    let standing = |name: &str| -> Value {
        let webhooks = server.json("/api/v1/webhooks");
        let mut webhooks = webhooks.as_array().unwrap().iter();
        webhooks.find(|webhook| webhook["name"] == name).unwrap()["standing"].clone()
    };
    wait_until("off", || (standing("good") == "off").then_some(()));
    assert_eq!(form(&server, "/webhooks/good/enable", OWN, "").status, 303);
    wait_until("on", || (standing("good") == "on").then_some(()));
    let answer = form(&server, "/webhooks/bad%2F%20%3Cb%3E/test", OWN, "");
    assert!(answer.body.contains("not delivered"), "{answer:?}");
    assert!(answer.body.contains("&lt;script&gt;alert(1)"), "{answer:?}");
    assert_eq!(form(&server, "/webhooks/god/enable", OWN, "").status, 404);
    assert_eq!(
        form(&server, &format!("/deliveries/{dead}/cancel"), OWN, "").status,
        409
    );
}

#[test]
fn many_deliveries_change_only_by_the_number_that_was_shown() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    let filters = "webhook=good&state=delivered";
    let shown = view(
        &server,
        &format!("/deliveries/bulk?action=redeliver&{filters}"),
    );
    assert!(
        shown.body.contains("name=\"expected\" value=\"6\""),
        "{shown:?}"
    );
    let before = good.n();
    let send = |expected: u64| {
        let body = format!("action=redeliver&{filters}&expected={expected}");
        form(&server, "/deliveries/bulk", OWN, &body)
    };
    let refused = send(5);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(
        refused.body.contains("now has 6 deliveries or events"),
        "{refused:?}"
    );
    let done = send(6);
    assert!(done.body.contains("6 deliveries redelivered"), "{done:?}");
    good.wait_for(before + 6);
    let nothing = form(&server, "/deliveries/bulk", OWN, "action=redeliver");
    assert_eq!(nothing.status, 400, "{nothing:?}");
}

#[test]
fn events_are_replayed_only_by_the_number_that_was_shown() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    let listed = view(&server, "/events");
    assert!(
        listed.body.contains("href=\"/events/replay\""),
        "{listed:?}"
    );
    let empty = view(&server, "/events/replay");
    assert!(empty.body.contains("bad/ &lt;b&gt;"), "{empty:?}");
    assert!(!empty.body.contains("name=\"expected\""), "{empty:?}");
    // A browser sends all fields.
    let filters = "to=good&project=sales/%3Cb%3Eproject1&since=1h&until=";
    let shown = view(&server, &format!("/events/replay?{filters}"));
    let expected = "name=\"expected\" value=\"2\"";
    assert!(shown.body.contains(expected), "{shown:?}");
    assert!(shown.body.contains("&lt;b&gt;project1"), "{shown:?}");
    let before = good.n();
    let send = |line: &str, expected: &str| {
        let body = format!("{filters}&expected={expected}");
        form(&server, "/events/replay", line, &body)
    };
    assert_eq!(send("origin: http://evil.example", "2").status, 403);
    assert_eq!(send(OWN, "").status, 400);
    let refused = send(OWN, "3");
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(
        refused.body.contains("now has 2 deliveries or events"),
        "{refused:?}"
    );
    let done = send(OWN, "2");
    assert!(done.body.contains("2 events queued for good"), "{done:?}");
    good.wait_for(before + 2);
    let absent = view(&server, "/events/replay?to=god");
    assert_eq!(absent.status, 404, "{absent:?}");
}

#[test]
fn a_payload_is_downloaded_byte_for_byte() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let content = xml("Sales", "s1", &"line\n".repeat(10_000));
    home.write("sales/one/project.xml", &content);
    good.wait_for(2);
    let event = first(&server, "/api/v1/events?event=project-import");
    let file = server.get(&format!("/events/{event}/project.xml"));
    assert_eq!(file.body, content);
    assert_eq!(
        file.header("content-type"),
        Some("application/octet-stream")
    );
    let disposition = file.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    let shown = view(&server, &format!("/events/{event}/payload"));
    assert!(
        shown.body.contains("This is the first part"),
        "{}",
        shown.body.len()
    );
    assert_eq!(shown.body.matches("<li>").count(), 5_000);
}
