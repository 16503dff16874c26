//! The page in a real browser: with and without JavaScript, for every reader and every width.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use project_webhooks::receiver::Reply;
use serde_json::json;

use super::admin;
use super::client::{TOKEN, free_address};
use super::common::{Endpoint, Home, Settings, Webhook, skip, wait_until, xml};
use super::webdriver::Browser;

/// The directory that gets pictures, if it is set.
const PICTURES: &str = "PROJECT_WEBHOOKS_SCREENSHOTS";

const VIEWS: [&str; 6] = [
    "/",
    "/webhooks",
    "/deliveries",
    "/events",
    "/files",
    "/settings",
];

/// The page of a running daemon in a browser.
struct Page {
    browser: Browser,
    origin: String,
}

impl Page {
    fn open(&self, path: &str) {
        self.browser.open(&format!("{}{path}", self.origin));
    }

    fn log_in(&self) {
        self.open("/");
        assert_eq!(self.browser.path(), "/login");
        self.browser.type_into("#token", "wrong");
        self.browser.click("button.main");
        self.browser.wait_text("The token is wrong.");
        self.browser.type_into("#token", TOKEN);
        self.browser.click("button.main");
        self.browser.wait_text("Overview");
        assert_eq!(self.browser.path(), "/");
    }

    /// The state of the live updates, as the page shows it.
    fn live(&self) -> String {
        let text = self
            .browser
            .run("return document.getElementById('live').textContent");
        text.as_str().unwrap().to_owned()
    }

    fn script(&self, is_on: bool) {
        let parameters = json!({ "value": !is_on });
        self.browser
            .devtools("Emulation.setScriptExecutionDisabled", &parameters);
    }

    /// Presses a key, with its code and its text if it has one.
    fn press(&self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text
            });
            self.browser.devtools("Input.dispatchKeyEvent", &event);
        }
    }

    fn colors(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.browser.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }
}

/// The program that finds faults for readers with disabilities, if it is installed.
fn axe() -> Option<String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache.or_else(home)?;
    let file = "project-webhooks-ci/axe/node_modules/axe-core/axe.min.js";
    std::fs::read_to_string(cache.join(file)).ok()
}

/// Checks a view with axe-core: it has no serious fault.
fn check(page: &Page, axe: &str, view: &str) {
    page.browser.run(axe);
    let faults = page.browser.run_async(
        "const done = arguments[0];
         axe.run().then((found) => done(found.violations.map((fault) =>
             [fault.impact, fault.id, fault.nodes.map((node) => node.html).slice(0, 3)])));",
    );
    let faults = faults.as_array().unwrap();
    let serious = |impact: &serde_json::Value| impact == "serious" || impact == "critical";
    assert!(
        !faults.iter().any(|fault| serious(&fault[0])),
        "{view}: {faults:#?}"
    );
}

/// Writes a picture, if they are wanted.
fn keep_picture(page: &Page, name: &str) {
    if let Some(directory) = std::env::var_os(PICTURES) {
        let path = PathBuf::from(directory).join(name);
        std::fs::write(path, page.browser.picture()).unwrap();
    }
}

/// A home with a webhook that works and one that fails until the flag is set.
fn home(good: &Endpoint, bad: &Endpoint) -> (Home, String) {
    let address = free_address();
    let webhooks = [
        Webhook::new("catalog", &good.url()),
        Webhook::new("audit", &bad.url())
            .schedule("[0s]")
            .events("[project-import-any]"),
    ];
    let settings = Settings::of(webhooks).top(&admin(address));
    (Home::new(&settings), format!("http://{address}"))
}

fn failing_until(is_fixed: &Arc<AtomicBool>) -> Endpoint {
    let is_fixed = Arc::clone(is_fixed);
    Endpoint::answering(move |_| {
        if is_fixed.load(Ordering::SeqCst) {
            return Reply::status(http::StatusCode::OK);
        }
        Reply {
            body: "the database of the receiver is full".into(),
            ..Reply::status(http::StatusCode::INTERNAL_SERVER_ERROR)
        }
    })
}

#[test]
fn a_browser_shows_follows_and_acts() {
    const TEST: &str = "a_browser_shows_follows_and_acts";
    let Some(browser) = Browser::start() else {
        return skip(TEST, "needs chromium and chromedriver");
    };
    let is_fixed = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Endpoint::new(), failing_until(&is_fixed));
    let (home, origin) = home(&good, &bad);
    let daemon = home.start();
    let page = Page { browser, origin };
    page.log_in();

    follow_an_event(&page, &home);
    let delivery = see_a_callback_fail(&page);
    redeliver(&page, &is_fixed, &delivery);
    switch_off(&page, &home);
    work_by_keyboard(&page);
    home.write(
        "sales/broken/project.xml",
        "<schema name=\"Broken\">\n  <cube\n",
    );
    fit_everybody(&page, &delivery);
    survive_the_end_of_a_series(&page);
    work_without_javascript(&page, &delivery);
    // The sessions end with the daemon, so the open page asks for the token again.
    page.log_in();
    daemon.terminate();
    let _daemon = home.start();
    wait_until("the login", || {
        (page.browser.path() == "/login").then_some(())
    });
}

/// A browser that reconnects after the end of a series of the stream gets `missed` first.
fn survive_the_end_of_a_series(page: &Page) {
    page.open("/events");
    wait_until("the stream", || (page.live() == "live").then_some(()));
    page.browser.run("stream.dispatchEvent(new Event('error'))");
    assert_eq!(page.live(), "not live; reconnecting");
    page.browser
        .run("stream.dispatchEvent(new MessageEvent('missed', { data: '{}' }))");
    assert_eq!(page.live(), "live");
}

/// A new event appears in the open view, without a new page.
fn follow_an_event(page: &Page, home: &Home) {
    page.open("/events");
    wait_until("the stream", || (page.live() == "live").then_some(()));
    page.browser.run("window.isSamePage = true");
    home.write("sales/orders/project.xml", &xml("Orders", "orders", ""));
    page.browser.wait_text("sales/orders");
    assert_eq!(page.browser.run("return window.isSamePage"), json!(true));
    // Times are local, with UTC for the pointer.
    let title = page
        .browser
        .run("return document.querySelector('td time').title");
    assert!(title.as_str().unwrap().ends_with(" UTC"), "{title}");
    page.browser.click("td a[href^='/events/']");
    page.browser.wait_text("Because");
    page.browser.wait_text("catalog");
}

/// A failed callback is found by the filters, with its answer. Returns its path.
fn see_a_callback_fail(page: &Page) -> String {
    page.open("/deliveries?state=dead&webhook=audit");
    page.browser.wait_text("sales/orders");
    page.browser.click("td a[href^='/deliveries/']");
    page.browser
        .wait_text("the database of the receiver is full");
    page.browser.path()
}

/// The button sends the callback again, and the view shows its success by itself.
fn redeliver(page: &Page, is_fixed: &AtomicBool, delivery: &str) {
    is_fixed.store(true, Ordering::SeqCst);
    page.browser.run("window.isSamePage = true");
    page.browser.click("form[action$='/redeliver'] button");
    page.browser.wait_text("Attempt 2");
    page.browser.wait_text("delivered");
    assert_eq!(page.browser.run("return window.isSamePage"), json!(true));
    assert_eq!(page.browser.path(), delivery);
}

fn switch_off(page: &Page, home: &Home) {
    page.open("/webhooks");
    page.browser
        .click("form[action='/webhooks/catalog/disable'] button");
    page.browser.wait_text("Off since");
    let webhooks = home.json(&["webhooks"]);
    let webhooks = webhooks.as_array().unwrap();
    let standing = webhooks.iter().find(|webhook| webhook["name"] == "catalog");
    assert_eq!(standing.unwrap()["standing"], "off");
    page.browser
        .click("form[action='/webhooks/catalog/enable'] button");
    wait_until("the webhook to be on", || {
        (!page.browser.text().contains("Off since")).then_some(())
    });
}

/// The first key leads to the link that skips the navigation, and the next one to the content.
fn work_by_keyboard(page: &Page) {
    const ENTER: &str = "\u{e007}";
    let focused = |what: &str| {
        page.browser
            .run(&format!("return document.activeElement.{what}"))
    };
    page.open("/webhooks");
    page.browser.run("window.isSamePage = true");
    page.press("Tab", 9, "");
    assert_eq!(focused("className"), json!("skip"));
    page.press("Enter", 13, "\r");
    wait_until("the content", || {
        (focused("id") == json!("main")).then_some(())
    });
    let is_same_page = "return window.isSamePage && location.hash === ''";
    assert_eq!(page.browser.run(is_same_page), json!(true));
    // The first button of the content sends a test.
    wait_until("the button", || {
        page.press("Tab", 9, "");
        (focused("tagName") == json!("BUTTON")).then_some(())
    });
    page.press("Enter", 13, "\r");
    page.browser.wait_text("Test request");
    page.open("/deliveries");
    page.browser.type_into("input[name='project']", "nothing");
    page.browser.type_into("input[name='project']", ENTER);
    page.browser.wait_text("No deliveries.");
}

/// Every view is usable by keyboard and screen reader, in light and dark, and fits a phone.
fn fit_everybody(page: &Page, delivery: &str) {
    const TEST: &str = "a_browser_shows_follows_and_acts: axe-core";
    let axe = axe();
    if axe.is_none() {
        skip(TEST, "needs axe-core");
    }
    page.open("/events");
    page.browser.click("td a[href^='/events/']");
    page.browser.wait_text("Because");
    let event = page.browser.path();
    let mut views: Vec<String> = VIEWS.map(str::to_owned).into();
    views.extend([
        delivery.to_owned(),
        format!("{event}/payload"),
        event,
        "/deliveries/bulk?action=redeliver&state=delivered".to_owned(),
        "/events/replay?to=catalog".to_owned(),
        "/deliveries/none".to_owned(),
        "/login".to_owned(),
    ]);
    for scheme in ["light", "dark"] {
        page.colors(scheme);
        for view in &views {
            page.open(view);
            if view == "/files" {
                page.browser.wait_text("sales/broken/project.xml");
            }
            if let Some(axe) = &axe {
                check(page, axe, view);
            }
        }
        page.open("/");
        keep_picture(page, &format!("page-{scheme}.png"));
    }
    page.colors("light");
    let phone = json!({ "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": true });
    page.browser
        .devtools("Emulation.setDeviceMetricsOverride", &phone);
    for view in &views {
        page.open(view);
        let width = page
            .browser
            .run("return document.documentElement.scrollWidth");
        assert!(width.as_u64().unwrap() <= 390, "{view}: {width}");
    }
    page.browser
        .devtools("Emulation.clearDeviceMetricsOverride", &json!({}));
}

/// Without JavaScript everything can be read, and forms work.
fn work_without_javascript(page: &Page, delivery: &str) {
    page.script(false);
    page.open("/events");
    page.browser.wait_text("sales/orders");
    // The script would show local time, and follow.
    page.browser.wait_text(" UTC");
    assert_eq!(page.live(), "");
    page.open(delivery);
    page.browser.run("window.isSamePage = true");
    page.browser.click("form[action$='/redeliver'] button");
    // Another page would end the request before it is sent.
    wait_until("the answer to the form", || {
        let is_same = page.browser.try_run("return window.isSamePage === true")?;
        (is_same == json!(false)).then_some(())
    });
    wait_until("the third attempt", || {
        page.open(delivery);
        page.browser.text().contains("Attempt 3").then_some(())
    });
    page.script(true);
    page.open("/");
    page.browser.click("form[action='/logout'] button");
    page.browser.wait_text("Log in");
    page.open("/deliveries");
    assert_eq!(page.browser.path(), "/login");
}
