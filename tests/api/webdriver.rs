//! A headless browser: Chromium, driven by the W3C WebDriver protocol, which is JSON over HTTP.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};

use super::common::{PATIENCE, Patient, wait_until};

/// The key of an element's id, which the specification fixes.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window; ended when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts a browser. `None` if it is not installed.
    pub fn start() -> Option<Self> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut browser = Self {
            driver,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            session: String::new(),
        };
        let lines = BufReader::new(Patient::of(browser.driver.stdout.take().unwrap())).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        browser.address.set_port(port?);
        let arguments = [
            "--headless=new",
            // The sandbox needs a user that is not root.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1280,900",
            "--lang=en-GB",
        ];
        let options = json!({ "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } });
        let wanted = json!({ "capabilities": options });
        // A driver gives up a browser that starts slowly.
        let mut starts = (0..3).map(|_| browser.try_call("POST", "/session", &wanted));
        let session = starts.find_map(Result::ok).unwrap();
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
        browser.post("timeouts", &json!({ "script": patience }));
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let found = self.try_call(method, path, body);
        found.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let answered = exchange(self.address, method, path, &body);
        let (status, answer) = answered.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let value = answer["value"].clone();
        if status == 200 {
            Ok(value)
        } else {
            Err(value.to_string())
        }
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        self.call(
            "POST",
            &format!("/session/{}/{command}", self.session),
            body,
        )
    }

    /// Opens an address.
    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// The path of the address that is open.
    pub fn path(&self) -> String {
        self.run("return location.pathname")
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Runs a script, and returns its value.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script, and returns its value. `None` if another page is loaded meanwhile.
    pub fn try_run(&self, script: &str) -> Option<Value> {
        let path = format!("/session/{}/execute/sync", self.session);
        let body = json!({ "script": script, "args": [] });
        self.try_call("POST", &path, &body).ok()
    }

    /// Runs a script that calls its last argument with the value.
    pub fn run_async(&self, script: &str) -> Value {
        self.post("execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Sends a command of the browser's own protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", &body);
    }

    fn find(&self, css: &str) -> Option<String> {
        let path = format!("/session/{}/element", self.session);
        let body = json!({ "using": "css selector", "value": css });
        let found = self.try_call("POST", &path, &body).ok()?;
        found[ELEMENT].as_str().map(str::to_owned)
    }

    /// Waits for an element, and clicks it. A live update may replace it meanwhile.
    pub fn click(&self, css: &str) {
        wait_until(&format!("{css} to click"), || {
            let id = self.find(css)?;
            let path = format!("/session/{}/element/{id}/click", self.session);
            self.try_call("POST", &path, &json!({})).ok()
        });
    }

    /// Waits for an element, and types text into it. A new page may replace it meanwhile.
    pub fn type_into(&self, css: &str, text: &str) {
        wait_until(&format!("{css} to type into"), || {
            let id = self.find(css)?;
            let path = format!("/session/{}/element/{id}/value", self.session);
            self.try_call("POST", &path, &json!({ "text": text })).ok()
        });
    }

    /// The visible text of the view. Empty while another page is loaded.
    pub fn text(&self) -> String {
        let text = self.try_run("return document.body ? document.body.innerText : ''");
        let text = text.unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the view shows a text.
    pub fn wait_text(&self, text: &str) {
        wait_until(&format!("{text:?} in the view"), || {
            self.text().contains(text).then_some(())
        });
    }

    /// A picture of the window, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let path = format!("/session/{}/screenshot", self.session);
        let picture = self.call("GET", &path, &Value::Null);
        let picture = picture.as_str().unwrap();
        base64::prelude::BASE64_STANDARD.decode(picture).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        let _ = self.try_call("DELETE", &path, &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Sends a request to the driver, which keeps its connections open. Returns the status and the body.
fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let mut stream = Patient::within(2 * PATIENCE, TcpStream::connect(address)?);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().unwrap().parse().unwrap();
        } else if let Some(rest) = line.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
