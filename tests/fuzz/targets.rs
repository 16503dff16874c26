//! The targets with their seeds, words and assertions.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::actor::{self, Asked, Assembled, Assembler, Memory, PathNodes, Question};
use project_webhooks::config::{Environment, Format, load_str};
use project_webhooks::document;
use project_webhooks::domain::delivery::{self, Verdict};
use project_webhooks::domain::event::{EventId, EventKind, Origin, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::layout::Layout;
use project_webhooks::webhook::{CallbackContent, answer, body};

pub const XML: &[&str] = &[
    "<schema",
    "</schema>",
    "/>",
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE schema [",
    "<!ENTITY a \"b\">",
    "]>",
    "&a;",
    "&amp;",
    "&#0;",
    "&#x10FFFF;",
    "name=\"",
    "annotation",
    "engineId",
    "\u{feff}",
    "\0",
    "'",
    "\"",
    "<?p ?>",
    "xmlns",
];
pub const YAML: &[&str] = &[
    "webhooks:",
    "\n  - ",
    "name: ",
    "url: http://h/",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|",
    ">",
    "---",
    "...",
    "\t",
    "#",
    ": ",
    "~",
    "1e999",
    "0x",
    "9223372036854775808",
    "retry: { schedule: [",
    "1s",
    "1GiB",
    "env:",
    "credential:",
    "\u{0}",
    "\u{feff}",
];
pub const RECORDS: &[&str] = &[
    "1300 audit(1.001:1): ",
    "1302 audit(1.001:1): ",
    "1320 audit(1.001:1): ",
    "1336 audit(1.001:2): ",
    "1337 audit(1.001:2): oflag=01101",
    "arch=c000003e syscall=257 ",
    "success=yes ",
    "items=2 ",
    "items=99999999999 ",
    "auid=1001 ",
    "auid=4294967295 ",
    "euid=0 ",
    "exe=\"/bin/rm\" ",
    "exe=2F62696E ",
    "key=\"project-webhooks\" ",
    "key=(null) ",
    "name=\"a/project.xml\" ",
    "name=612F62 ",
    "name=(null) ",
    "inode=50 ",
    "inode=40 ",
    "dev=08:01 ",
    "nametype=PARENT",
    "nametype=CREATE",
    "nametype=DELETE",
    "nametype=NORMAL",
    "\n",
];
pub const TEMPLATES: &[&str] = &[
    "{organization}",
    "{project}",
    "{versionTag}",
    "/",
    "..",
    ".",
    "{",
    "}",
    "{{",
    "}}",
    "\n",
    "*",
    "project.xml",
    "{organization}/{project}/",
    "-",
    "é",
];
pub const HEADERS: &[&str] = &[
    "retry-after: ",
    "120",
    "1e300",
    "-1",
    "99999999999999999999",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wednesday, 21-Oct-26 07:28:00 GMT",
    "Wed Oct 21 07:28:00 2026",
    "location: ",
    "\n",
    "429",
    "503",
    "410",
    "204",
    "301",
    "0",
    ".5",
    " ",
];
pub const VALUES: &[&str] = &[
    "\r\n",
    "--",
    "\"",
    "project-webhooks-",
    "Content-Disposition: form-data; name=\"payload\"",
    "\0",
    "%",
    "&",
    "=",
    "+",
    "é",
    "\u{feff}",
    "<schema/>",
    ";",
    "\\",
    "</schema>",
];

fn kind(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The kind of a message: its beginning without numbers and quotations.
fn gist(message: &str) -> String {
    let plain = message
        .chars()
        .take_while(|one| !matches!(one, '"' | '`' | '\u{2018}'));
    plain.filter(|one| !one.is_ascii_digit()).take(60).collect()
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn documents() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        "<schema/>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- c -->\n<schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"Sales\" id=\"1\" version=\"2.0\">\n<annotations><annotation name=\"engineId\">e-1</annotation><annotation name=\"version\">v1</annotation></annotations><a b='c'>&lt;&#65;<![CDATA[x]]></a></schema>\n",
        "<!DOCTYPE schema><schema name=\"&quot;a&#x41;\"><?p i?></schema><!-- end -->",
        "<!DOCTYPE schema [<!ENTITY a \"b\">]><schema>&a;</schema>",
        "<project/>",
    ]);
    let utf_16 = "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema name=\"é\"/>";
    all.push(utf_16.encode_utf16().flat_map(u16::to_le_bytes).collect());
    all.push(b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><schema name=\"\xe9\"/>".to_vec());
    all
}

/// Parses twice with the same result; rejects the document without its last character.
pub fn project_xml(input: &[u8]) -> u64 {
    let first = document::parse(input);
    match first {
        Ok(read) => {
            assert_eq!(document::parse(input).unwrap().name, read.name);
            if input.starts_with(b"<") && !input.contains(&0) {
                let end = input
                    .iter()
                    .rposition(|byte| !byte.is_ascii_whitespace())
                    .unwrap();
                assert!(
                    document::parse(&input[..end]).is_err(),
                    "accepted without its end"
                );
            }
            kind((
                true,
                read.name.is_some(),
                read.id.is_some(),
                read.annotations.len().min(8),
            ))
        }
        Err(malformed) => {
            assert!(malformed.line >= 1 && malformed.column >= 1);
            assert!(!malformed.reason.is_empty());
            kind(gist(&malformed.reason))
        }
    }
}

struct NoEnvironment;

impl Environment for NoEnvironment {
    fn variable(&self, _name: &str) -> Option<std::ffi::OsString> {
        None
    }
}

pub fn configurations() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![fs::read(root.join("config.yaml")).unwrap()];
    for directory in ["tests/configs/valid", "tests/configs/invalid"] {
        let mut paths: Vec<_> = fs::read_dir(root.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "yaml")
            })
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{directory}");
        all.extend(paths.into_iter().map(|path| fs::read(path).unwrap()));
    }
    all
}

/// Loads twice with the same result, or reports problems.
pub fn config_yaml(input: &[u8]) -> u64 {
    let file = Path::new("/nonexistent/config.yaml");
    match load_str(input, file, &NoEnvironment) {
        Ok(loaded) => {
            let config = loaded.config;
            let again = load_str(input, file, &NoEnvironment).unwrap().config;
            assert_eq!(config.webhooks.len(), again.webhooks.len());
            let mut names: Vec<&str> = config.webhooks.iter().map(|one| one.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), config.webhooks.len());
            kind((true, names.len()))
        }
        Err(problems) => {
            let said = problems.to_string();
            assert!(!said.trim().is_empty());
            kind(said.lines().map(gist).take(3).collect::<Vec<_>>())
        }
    }
}

pub fn templates() -> Vec<Vec<u8>> {
    texts(&[
        "{organization}/{project}/project.xml",
        "{organization}/{project}/project.xml\n{organization}/{project}/published/{versionTag}/project.xml\n{organization}/{project}/snapshots/{versionTag}.xml",
        "{project}.xml\npub-{project}-{versionTag}.xml\nsnap/{project}/{versionTag}-x.xml",
        "a/{project}/b\na/{project}/c-{versionTag}\n{project}/{versionTag}",
    ])
}

/// Lines are templates of definition, published copy and snapshot. A layout matches its own paths.
pub fn path_templates(input: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    let mut lines = text.split('\n').map(str::to_owned);
    let mut next = || lines.next().into_iter().collect::<Vec<String>>();
    let (project, published, snapshot) = (next(), next(), next());
    match Layout::new(&project, &published, &snapshot) {
        Ok(layout) => {
            for template in project.iter().chain(&published).chain(&snapshot) {
                let path = template
                    .replace("{organization}", "sales")
                    .replace("{project}", "p")
                    .replace("{versionTag}", "v1");
                let file = layout.at(&path).and_then(|cursor| cursor.file());
                let file = file.unwrap_or_else(|| panic!("{template:?} does not match {path:?}"));
                assert!(
                    file.key.project.contains('p'),
                    "{path:?} is of {:?}",
                    file.key
                );
                let same = layout.relocate(&path, &file.key);
                assert_eq!(
                    same.as_deref(),
                    Some(path.as_str()),
                    "relocated to its own key"
                );
                let _ = layout.directory_of(&ProjectKey::new("sales", "p"));
            }
            kind((
                true,
                published.len(),
                snapshot.len(),
                layout.to_string().len().min(64),
            ))
        }
        Err(errors) => kind(
            errors
                .iter()
                .map(|error| gist(&error.reason))
                .collect::<Vec<_>>(),
        ),
    }
}

pub fn headers() -> Vec<Vec<u8>> {
    texts(&[
        "429\nretry-after: 120",
        "503\nretry-after: Wed, 21 Oct 2026 07:28:00 GMT",
        "301\nlocation: http://elsewhere/",
        "410",
        "200\nretry-after: 1",
    ])
}

/// Records of a rename over a file, and of a removal.
pub fn records() -> Vec<Vec<u8>> {
    let call = |serial: u32, items: u32| {
        format!(
            "1300 audit(1.001:{serial}): arch=c000003e syscall=82 success=yes exit=0 a0=0 a1=0 a2=0 a3=0 \
             items={items} ppid=1 pid=2 auid=1001 uid=0 euid=0 exe=\"/bin/mv\" key=\"project-webhooks\"\n"
        )
    };
    let item = |serial: u32, kind: &str, name: &str, inode: u32| {
        format!(
            "1302 audit(1.001:{serial}): item=0 name={name} inode={inode} dev=08:01 mode=0100644 \
             nametype={kind}\n"
        )
    };
    let end = |serial: u32| format!("1320 audit(1.001:{serial}): \n");
    let rename = [
        call(1, 5),
        item(1, "PARENT", "\"a/\"", 40),
        item(1, "PARENT", "\"b/\"", 41),
        item(1, "DELETE", "\"b/x\"", 50),
        item(1, "DELETE", "\"a/project.xml\"", 51),
        item(1, "CREATE", "612F70726F6A6563742E786D6C", 50),
        end(1),
    ];
    let removal = [
        call(2, 2),
        item(2, "PARENT", "\"a/\"", 40),
        item(2, "DELETE", "\"a/project.xml\"", 50),
        end(2),
    ];
    let both = [rename.concat(), removal.concat()].concat();
    [rename.concat(), removal.concat(), both]
        .map(String::into_bytes)
        .into()
}

/// Each line is a type and a record. Memory stays bounded, and an answer comes from a given record.
pub fn audit_records(input: &[u8]) -> u64 {
    let (mut assembler, mut memory) = (Assembler::default(), Memory::default());
    let mut users = HashSet::new();
    let (mut n_lost, mut n_changes) = (0_u64, 0_usize);
    for line in input.split(|byte| *byte == b'\n') {
        let kind = line
            .get(..4)
            .and_then(|kind| std::str::from_utf8(kind).ok());
        let kind = kind.and_then(|kind| kind.parse().ok()).unwrap_or(1302);
        match assembler.take(kind, line.get(5..).unwrap_or_default()) {
            Assembled::Nothing => {}
            Assembled::Lost => {
                n_lost += 1;
                memory.lost(1_000);
            }
            Assembled::Complete(call) => {
                let (act, changes) = actor::changes(*call, "project-webhooks");
                users.insert((act.login, act.effective, act.pid));
                n_changes += changes.len();
                memory.add(&act, changes);
            }
        }
        assert!(assembler.n_open() <= 256);
    }
    let node = |inode: u64| ((8, 1), inode);
    let path = PathNodes {
        directories: vec![node(40)],
        names: vec![b"project.xml".as_slice().into()],
    };
    let gone = Asked::Vanished {
        node: node(50),
        since_ns: 0,
        replaced_by: Some((node(50), i64::MAX)),
    };
    let appeared = Asked::Appeared {
        node: node(50),
        changed_ns: i64::MAX,
        depth: 1,
    };
    let rewritten = Asked::Rewritten {
        node: node(50),
        changed_ns: i64::MIN,
        since_ns: i64::MIN,
    };
    let moved = Asked::Moved {
        node: node(50),
        since_ns: i64::MIN,
        from: PathNodes {
            directories: vec![node(30)],
            ..path.clone()
        },
    };
    let answers = [gone, appeared, rewritten, moved].map(|asked| {
        let question = Question {
            path: path.clone(),
            asked,
        };
        memory.answer(&question)
    });
    for act in answers.iter().flatten() {
        assert!(users.contains(&(act.login, act.effective, act.pid)));
    }
    let answered = answers.map(|answer| answer.is_some());
    kind((
        n_lost.min(3),
        n_changes.min(8),
        assembler.n_open().min(3),
        answered,
    ))
}

/// The first line is a status, the others are headers. The wait is at most a day.
pub fn answer_headers(input: &[u8]) -> u64 {
    let now: Timestamp = "2026-10-21T07:00:00Z".parse().unwrap();
    let mut lines = input.split(|byte| *byte == b'\n');
    let status = lines
        .next()
        .and_then(|line| StatusCode::from_bytes(line).ok());
    let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = axum::http::HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            if let Ok(text) = value.to_str() {
                let _ = answer::retry_after(text, now);
            }
            headers.append(name, value);
        }
    }
    let outcome = answer::outcome(status, &headers, now);
    let _ = answer::complaint(status, &headers);
    let schedule = [Duration::ZERO, Duration::from_secs(5)];
    let verdict = delivery::next(&schedule, 1, outcome, now, 0.5);
    let wait = verdict
        .retry_at()
        .map(|due| Duration::try_from(due.duration_since(now)).unwrap());
    if let Some(wait) = wait {
        assert!(wait >= schedule[1] && wait.as_secs() <= 86_400, "{wait:?}");
    }
    assert_eq!(
        status.is_success(),
        verdict == Verdict::Delivered,
        "{status}"
    );
    kind((
        status.as_u16() / 100,
        wait.map(|wait| wait.as_secs().ilog2()),
    ))
}

pub fn values() -> Vec<Vec<u8>> {
    texts(&[
        "user\nname\norganization\nid\n<schema/>",
        "\n\n\n\n",
        "--\r\n\n\"\n;\n\u{1}\n--project-webhooks-",
    ])
}

/// Four lines of parameters; the rest is the payload.
pub fn content(input: &[u8]) -> CallbackContent {
    let mut pieces = input.splitn(5, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(pieces.next().unwrap_or_default()).into_owned();
    let parameters = [
        Parameter::Username,
        Parameter::ProjectName,
        Parameter::OrganizationName,
        Parameter::OrganizationId,
    ]
    .into_iter()
    .map(|parameter| (parameter, text()))
    .collect();
    CallbackContent {
        id: EventId("evt_0123456789abcdef0123456789abcdef".to_owned()),
        event: EventKind::SnapshotRestore.into(),
        key: ProjectKey::new("sales", "p"),
        occurred_at: Timestamp::UNIX_EPOCH,
        origin: Origin::Live,
        parameters,
        actor: None,
        payload: Bytes::copy_from_slice(pieces.next().unwrap_or_default()),
    }
}

/// Independent parsers read the same fields from multipart, form and JSON bodies.
pub fn bodies(input: &[u8]) -> u64 {
    let content = content(input);
    let (parameters, payload) = (&content.parameters, &content.payload);
    let multipart = body::build(Format::Multipart, &content);
    let parts = parse_multipart(&multipart);
    assert_eq!(parts.len(), parameters.len() + 1);
    for ((name, value), (parameter, expected)) in parts.iter().zip(parameters) {
        assert_eq!(name, parameter.as_str());
        assert_eq!(value, expected.as_bytes());
    }
    assert_eq!(
        parts[parameters.len()],
        ("payload".to_owned(), payload.clone())
    );

    let form_bytes = body::build(Format::Form, &content).bytes.joined();
    let pairs: Vec<_> = url::form_urlencoded::parse(&form_bytes).collect();
    for ((name, value), (parameter, expected)) in pairs.iter().zip(parameters) {
        assert_eq!(
            (name.as_ref(), value.as_ref()),
            (parameter.as_str(), expected.as_str())
        );
    }
    let json = body::build(Format::Json, &content);
    let json: serde_json::Value = serde_json::from_slice(&json.bytes.joined()).unwrap();
    for (parameter, expected) in parameters {
        assert_eq!(json["parameters"][parameter.as_str()], expected.as_str());
    }
    for format in [Format::Xml, Format::CloudEvents] {
        assert_eq!(body::build(format, &content).bytes.joined(), *payload);
    }
    kind((
        parts
            .iter()
            .map(|(_, value)| value.len().min(8))
            .collect::<Vec<_>>(),
        multipart.content_type,
    ))
}

fn parse_multipart(body: &body::Body) -> Vec<(String, Bytes)> {
    let boundary = multer::parse_boundary(&body.content_type).unwrap();
    let whole = http_body_util::Full::new(body.bytes.joined());
    let stream = http_body_util::BodyDataStream::new(whole);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut multipart = multer::Multipart::new(stream, boundary);
        let mut parts = Vec::new();
        while let Some(field) = multipart.next_field().await.unwrap() {
            let name = field.name().unwrap().to_owned();
            parts.push((name, field.bytes().await.unwrap()));
        }
        parts
    })
}
