//! The pure parts: the cost of a change without disk, network and threads.
//!
//! `cargo bench --bench pure` measures all; `cargo bench --bench pure -- parse` only names with
//! that word. A real project.xml has from a kilobyte to some megabytes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use globset::{Glob, GlobSet};
use project_webhooks::config::Format;
use project_webhooks::document;
use project_webhooks::domain::event::{EventId, EventKind, Origin, Parameter};
use project_webhooks::domain::infer::{Removals, infer};
use project_webhooks::domain::pace::{Pace, Rate};
use project_webhooks::domain::project::{
    ContentHash, FileState, Observed, ObservedFile, ProjectKey, Recorded, Role, Stamp,
};
use project_webhooks::domain::route::{Properties, Subscription, ValueFilter};
use project_webhooks::domain::settle::{Agenda, Unresolved};
use project_webhooks::layout::Layout;
use project_webhooks::webhook::signature::{SigningKey, sign};
use project_webhooks::webhook::{CallbackContent, body};
use secrecy::SecretString;

const SIZES: [usize; 3] = [1_000, 100_000, 4_000_000];

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    parsing(&mut criterion);
    inference(&mut criterion)?;
    settling(&mut criterion);
    layouts(&mut criterion)?;
    bodies(&mut criterion)?;
    signing(&mut criterion)?;
    selecting(&mut criterion)?;
    pacing(&mut criterion);
    criterion.final_summary();
    Ok(())
}

/// A project.xml of about this size.
fn document(size: usize) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"Sales\" version=\"2.0\">\n\
        <annotations><annotation name=\"engineId\">6f1f6f3e-4f0a-4f7e-9c55-0c1d6f0f2b11\
        </annotation></annotations>\n"
        .to_owned();
    let mut number = 0;
    while text.len() < size {
        let _ = writeln!(
            text,
            "<attribute id=\"a{number}\" name=\"Größe &amp; Art {number}\"><properties>\
             <caption>Column {number}</caption><visible>true</visible></properties></attribute>"
        );
        number += 1;
    }
    text + "</schema>\n"
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for size in SIZES {
        let text = document(size);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("document", size), &text, |b, text| {
            b.iter(|| document::parse(black_box(text.as_bytes())));
        });
        group.bench_with_input(BenchmarkId::new("hash", size), &text, |b, text| {
            b.iter(|| ContentHash::of(black_box(text.as_bytes())));
        });
    }
}

/// A project with this many snapshots, a definition and a published copy.
fn recorded(snapshots: usize) -> anyhow::Result<Recorded> {
    let parsed = document::parse(document(1_000).as_bytes())?;
    let file = |path: String, role: Role, number: i64| FileState {
        hash: ContentHash::of(path.as_bytes()),
        path,
        role,
        tag: None,
        stamp: Stamp {
            inode: number.unsigned_abs(),
            size: 1_000,
            modified_ns: number * 1_000_000_000,
            changed_ns: number * 1_000_000_000,
        },
        read_ns: i64::MAX,
        document: parsed.clone(),
        owner: "ada".to_owned(),
    };
    let copies = (2_i64..).take(snapshots).map(|number| {
        let path = format!("sales/orders/snapshots/{number}.xml");
        file(path, Role::Snapshot, number)
    });
    let definition = file("sales/orders/project.xml".to_owned(), Role::Definition, 0);
    let published = "sales/orders/published/project.xml".to_owned();
    Ok([definition, file(published, Role::Published, 1)]
        .into_iter()
        .chain(copies)
        .collect())
}

fn inference(criterion: &mut Criterion) -> anyhow::Result<()> {
    let mut group = criterion.benchmark_group("infer");
    for snapshots in [3, 100] {
        let before = recorded(snapshots)?;
        let seen = |change: fn(&mut FileState)| Observed {
            files: before
                .files()
                .cloned()
                .map(|mut file| {
                    change(&mut file);
                    (file.path.clone(), ObservedFile::Complete(file))
                })
                .collect(),
            unreadable: Vec::new(),
        };
        let same = seen(|_| {});
        let published = seen(|file| {
            if file.role == Role::Published {
                file.hash = ContentHash::of(b"another");
            }
        });
        for (what, observed) in [("nothing", &same), ("publish", &published)] {
            group.bench_function(BenchmarkId::new(what, snapshots), |b| {
                b.iter(|| {
                    infer(
                        black_box(&before),
                        black_box(observed),
                        Removals::Unconfirmed,
                    )
                });
            });
        }
    }
    Ok(())
}

/// A hint and its observation, while so many other projects settle.
fn settling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("settle");
    for waiting in [0_u64, 10_000] {
        let mut settle = Agenda::new(Duration::from_secs(1));
        let begin = Duration::from_secs(10);
        for number in 0..waiting {
            let key = ProjectKey::new("others", number.to_string());
            settle.hint(&key, begin, Origin::Live, "a report");
            settle.due(begin, 1);
            let missing = BTreeSet::from(["others/project.xml".to_owned()]);
            let open = Unresolved {
                missing,
                ..Unresolved::default()
            };
            settle.observed(&key, begin, open);
        }
        let key = ProjectKey::new("sales", "orders");
        group.bench_function(BenchmarkId::new("hint, due, looked", waiting), |b| {
            b.iter(|| {
                settle.hint(black_box(&key), begin, Origin::Live, "a report");
                let due = settle.due(begin, 1);
                settle.observed(&key, begin, Unresolved::default());
                due
            });
        });
    }
}

fn layouts(criterion: &mut Criterion) -> anyhow::Result<()> {
    let texts = |all: &[&str]| {
        all.iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let layout = Layout::new(
        &texts(&["{organization}/{project}/project.xml"]),
        &texts(&[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ]),
        &texts(&[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ]),
    );
    let layout = layout.map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let mut group = criterion.benchmark_group("layout");
    for path in [
        "sales/orders/project.xml",
        "sales/orders/snapshots/before-the-edit.xml",
        "sales/orders/notes/readme.txt",
    ] {
        group.bench_with_input(BenchmarkId::new("repository", path), path, |b, path| {
            b.iter(|| layout.at(black_box(path)).and_then(|cursor| cursor.file()));
        });
    }
    Ok(())
}

fn bodies(criterion: &mut Criterion) -> anyhow::Result<()> {
    let mut group = criterion.benchmark_group("body");
    let id = || EventId("evt_0123456789abcdef0123456789abcdef".to_owned());
    for size in [1_000, 100_000] {
        let mut content = CallbackContent::test(id(), "2026-01-02T03:04:05Z".parse()?);
        content.event = EventKind::ProjectPublish.into();
        content.payload = Bytes::from(document(size));
        group.throughput(Throughput::Bytes(content.payload.len() as u64));
        for format in [
            Format::Multipart,
            Format::Form,
            Format::Xml,
            Format::Json,
            Format::CloudEvents,
        ] {
            group.bench_function(BenchmarkId::new(format!("{format:?}"), size), |b| {
                b.iter(|| body::build(format, black_box(&content)));
            });
        }
    }
    Ok(())
}

fn signing(criterion: &mut Criterion) -> anyhow::Result<()> {
    let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let keys = [SigningKey::parse(&secret)?];
    let mut group = criterion.benchmark_group("sign");
    for size in SIZES {
        let text = document(size);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &text, |b, text| {
            b.iter(|| {
                sign(
                    &keys,
                    "evt_0123",
                    1_700_000_000,
                    black_box(&[text.as_bytes()]),
                )
            });
        });
    }
    Ok(())
}

/// Whether a webhook receives an event, with and without the setting `when`.
fn selecting(criterion: &mut Criterion) -> anyhow::Result<()> {
    let key = ProjectKey::new("sales", "orders");
    let parameters = [
        (Parameter::Username, "ann".to_owned()),
        (Parameter::VersionTag, "release-1".to_owned()),
    ];
    let event = Properties {
        kind: EventKind::ProjectPublish,
        key: &key,
        parameters: &parameters,
    };
    let mut excluded = GlobSet::builder();
    excluded.add(Glob::new("svc-*")?);
    let filter = ValueFilter {
        included: None,
        excluded: excluded.build()?,
    };
    let mut group = criterion.benchmark_group("select");
    for (name, when) in [
        ("without when", Vec::new()),
        ("with when", vec![(Parameter::Username, filter)]),
    ] {
        let subscription = Subscription {
            repositories: None,
            webhook: "catalog".to_owned(),
            events: EventKind::SEVEN.into(),
            projects: None,
            when,
        };
        group.bench_function(name, |b| {
            b.iter(|| black_box(&subscription).interest(black_box(event)));
        });
    }
    Ok(())
}

/// The times of an attempt, with and without the setting `rate`.
fn pacing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pace");
    let rate = Rate {
        n: 100_000,
        per: Duration::from_secs(1),
    };
    for (name, rate) in [("without rate", None), ("with rate", Some(rate))] {
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        group.bench_function(name, |b| {
            b.iter(|| {
                now += Duration::from_micros(10);
                pace.sent(black_box(rate), now);
                pace.next(black_box(rate))
            });
        });
    }
}
