//! `listen --forward-to` between the daemon and a receiver.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};

use jiff::Timestamp;
use project_webhooks::receiver::{ReceiverOptions, Signature};
use secrecy::SecretString;
use serde_json::Value;

use crate::common::{Endpoint, Home, Patient, Settings, Webhook, wait_until};
use crate::floods::Flood;
use crate::{define, reply, snapshot};

const SECRET: &str = "a-secret-of-24-characters";

/// A running `listen` that passes callbacks on.
struct Forwarding {
    process: Child,
    home: tempfile::TempDir,
    url: String,
}

impl Forwarding {
    fn to(url: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (out, notes) = (home.path().join("out"), home.path().join("notes"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
        command.args(["listen", "--json", "--port", "0", "--secret", SECRET]);
        command.args(["--forward-to", url]);
        command.stdout(File::create(out).unwrap());
        command.stderr(File::create(&notes).unwrap());
        let process = command.spawn().unwrap();
        let url = wait_until("the URL of listen", || {
            let text = fs::read_to_string(&notes).unwrap();
            let (first, _) = text.split_once('\n')?;
            first.strip_prefix("Listening on ").map(str::to_owned)
        });
        Self { process, home, url }
    }

    fn printed(&self) -> String {
        let read = |name| fs::read_to_string(self.home.path().join(name)).unwrap();
        read("out") + &read("notes")
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_callback_goes_through_listen_with_a_valid_signature() {
    let target = Endpoint::reserved();
    let to = target.url().replace("http://", "http://user:hush@") + "hook/hush?key=hush";
    let forwarding = Forwarding::to(&to);
    let webhook = Webhook::new("all", &forwarding.url)
        .events("[snapshot-create]")
        .with("format: xml")
        .with(&format!("secret: {SECRET}"))
        .with("signed_headers: true");
    let home = Home::new(&Settings::of([webhook]));
    define(&home, "orders");
    let daemon = home.start();
    snapshot(&home, "orders", "s1");
    daemon.wait_message("failed: the answer was 502", 1);

    let secrets = vec![SecretString::from(SECRET)];
    let answer = |_: &_| {
        let mut answer = reply(202);
        answer.body = "thanks".into();
        answer
    };
    let options = ReceiverOptions::new(Timestamp::now);
    let target = target.open(options.with_secrets(secrets).with_answer(answer));
    let came = target.wait_for(1).remove(0);
    assert_eq!(came.signature, Signature::Verified);
    assert!(came.attempt > Some(1));
    assert_eq!(came.parameter("versionTag"), Some("s1"));
    let delivery = wait_until("a delivered delivery", || {
        let listed = home.json(&["deliveries", "--state", "delivered"]);
        listed.as_array()?.first().cloned()
    });
    let shown = home.json(&["deliveries", "show", &delivery["id"].to_string()]);
    let log = shown["log"].as_array().unwrap();
    assert_eq!(log[0]["status"], 502);
    assert!(log[0]["answer"].as_str().unwrap().contains("refused"));
    let last = log.last().unwrap();
    assert_eq!(
        (&last["status"], &last["answer"]),
        (&Value::from(202), &Value::from("thanks"))
    );
    // Every header that the daemon sent has arrived.
    for header in last["requestHeaders"].as_array().unwrap() {
        let name = header[0].as_str().unwrap();
        let value = header[1].as_str().unwrap();
        let found = came
            .headers
            .iter()
            .any(|(known, found)| known == name && found == value);
        assert!(found, "{name}: {value} is not in {:?}", came.headers);
    }
    let id = delivery["eventId"].as_str().unwrap();
    let printed = wait_until("the printed answer", || {
        let printed = forwarding.printed();
        printed.contains("\"status\":202").then_some(printed)
    });
    assert!(
        printed.contains(&format!("\"answerTo\":\"{id}\"")),
        "{printed}"
    );
    assert!(!printed.contains("hush"), "{printed}");
}

/// Sends a request with this path to `listen`. Its answer may come later.
fn post(forwarding: &Forwarding, id: &str) -> Patient<TcpStream> {
    let address = forwarding.url.trim_start_matches("http://");
    let sender = TcpStream::connect(address.trim_end_matches('/'));
    let mut sender = Patient::of(sender.unwrap());
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nWebhook-Id: {id}\r\nContent-Length: 0\r\n\r\n");
    sender.write_all(head.as_bytes()).unwrap();
    sender
}

/// The client of `listen` reads all interim answers that have arrived before it lets others work.
#[test]
fn a_target_that_floods_does_not_keep_listen_from_taking_callbacks() {
    let flood = Flood::new("", "HTTP/1.1 100 Continue\r\n\r\n");
    let forwarding = Forwarding::to(&flood.url());
    let mut senders = Vec::new();
    for number in 0..20 {
        let id = format!("evt_{number}");
        senders.push(post(&forwarding, &id));
        wait_until("the printed callback", || {
            forwarding
                .printed()
                .contains(&format!("\"{id}\""))
                .then_some(())
        });
        wait_until("the flood", || (flood.n_flooded() > 0).then_some(()));
    }
    // The first sender gets an answer although the target gave none.
    let mut answer = [0; 12];
    senders[0].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
}

#[test]
fn clients_that_stall_do_not_keep_listen_from_passing_callbacks_on() {
    let target = Endpoint::new();
    let forwarding = Forwarding::to(&target.url());
    let address = forwarding.url.trim_start_matches("http://");
    let address = address.trim_end_matches('/');
    let mut stalled = Vec::new();
    for number in 0..300 {
        let mut client = TcpStream::connect(address).unwrap();
        let parts: [&[u8]; 3] = [
            b"",
            b"POST / HTTP/1.1\r\nHo",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
        ];
        // An old connection may be closed for a new one.
        let _refused = client.write_all(parts[number % 3]);
        stalled.push(client);
    }
    let mut sender = post(&forwarding, "evt_1");
    let mut answer = [0; 12];
    sender.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
    assert_eq!(target.wait_for(1)[0].id, "evt_1");
}
