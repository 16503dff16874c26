use super::*;
use crate::config::Format;
use crate::receiver::Signature;
use bytes::Bytes;

fn received() -> Received {
    let pairs = [
        ("username", "alice"),
        ("projectName", "Größe\r\n\u{1b}[2J\u{202e}x"),
    ];
    Received {
        at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        id: "evt_1".to_owned(),
        event: "project-publish".to_owned(),
        label: "Project Publish".to_owned(),
        attempt: Some(2),
        origin: "live".to_owned(),
        timestamp: Timestamp::from_second(1_767_323_045).ok(),
        parameters: pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        payload: Bytes::from_static(b"<?xml version=\"1.0\"?>\n<schema\x9b/>\n"),
        signature: Signature::Verified,
        format: Some(Format::Multipart),
        problem: None,
        target: "/".to_owned(),
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

fn printed(received: &Received, style: &Style) -> String {
    let mut out = Vec::new();
    print_callback(&mut out, received, None, style).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_person_reads_a_callback() {
    assert_eq!(
        printed(&received(), &Style::plain()),
        "03:04:05.678  Project Publish, live, attempt 2, multipart, signature verified, \
         the event's name is not signed\n\
         \x20 id           evt_1\n\
         \x20 username     alice\n\
         \x20 projectName  Größe\\r\\n\\u{1b}[2J\\u{202e}x\n\
         \x20 payload      33 B  <?xml version=\"1.0\"?>\n\
         \n"
    );
}

#[test]
fn other_requests_are_printed_too() {
    let mut strange = received();
    strange.label = String::new();
    strange.id = String::new();
    strange.origin = String::new();
    strange.attempt = None;
    strange.parameters = Vec::new();
    strange.format = None;
    strange.signature = Signature::Wrong("no\nmatch".to_owned());
    strange.problem = Some("broken\u{7}".to_owned());
    strange.payload = vec![b'x'; 2_000].into();
    assert_eq!(
        printed(&strange, &Style::plain()),
        format!(
            "03:04:05.678  POST /, no known format, signature wrong: no\\nmatch\n\
             \x20 payload  2.0 KiB  {}…\n\
             \x20 problem  broken\\u{{7}}\n\
             \n",
            "x".repeat(100)
        )
    );
}

#[test]
fn a_program_reads_one_object_a_line() {
    let mut out = Vec::new();
    print_callback_json(&mut out, &received()).unwrap();
    let line = String::from_utf8(out).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"at":"2026-01-02T03:04:05.678Z","id":"evt_1","event":"project-publish","#,
            r#""label":"Project Publish","origin":"live","attempt":2,"#,
            r#""timestamp":"2026-01-02T03:04:05Z","format":"multipart","signature":"verified","#,
            r#""notSigned":"the event's name is not signed","#,
            r#""parameters":{"username":"alice","#,
            r#""projectName":"Größe\r\n\u001b[2J\u202ex"},"payloadBytes":33,"#,
            r#""payload":"<?xml version=\"1.0\"?>\n<schema�/>\n"}"#,
            "\n"
        )
    );
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through(
        text in "\\PC*|(\u{1b}|\u{9b}|\u{7}|\u{202e}|\n|.){0,20}",
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
    ) {
        let mut received = received();
        received.label = text.clone();
        received.origin = text.clone();
        received.id = text.clone();
        received.target = text.clone();
        received.parameters = vec![(text.clone(), text.clone())];
        received.problem = Some(text.clone());
        received.signature = Signature::Wrong(text);
        received.payload = bytes.into();
        let mut out = printed(&received, &Style::plain()).into_bytes();
        print_callback_json(&mut out, &received).unwrap();
        let shown = String::from_utf8(out).unwrap();
        proptest::prop_assert!(!shown.chars().any(|c| c != '\n' && c.is_control()));
        let turned = shown.contains('\u{202e}');
        proptest::prop_assert!(!turned);
        // The lines are head, id, parameter, payload, problem, an empty line, and the JSON.
        let lines = if received.id.is_empty() { 6 } else { 7 };
        proptest::prop_assert_eq!(shown.lines().count(), lines);
    }
}

#[test]
fn the_introduction_names_the_file_of_the_secret() {
    let arguments = |secrets: &[&str], files: &[&str]| ListenArguments {
        port: 0,
        secrets: secrets.iter().map(|one| SecretString::from(*one)).collect(),
        secret_files: files.iter().map(PathBuf::from).collect(),
        status: StatusCode::NO_CONTENT,
        forward_to: None,
        json: false,
    };
    assert_eq!(secret_setting(&arguments(&[], &[])), None);
    let file = secret_setting(&arguments(&[], &["/a b/secret"]));
    assert_eq!(file.as_deref(), Some("{ file: \"/a b/secret\" }"));
    let given = secret_setting(&arguments(&["hush"], &["/a b/secret"])).unwrap();
    assert!(
        given.contains("env: ") && !given.contains("hush"),
        "{given}"
    );
}
