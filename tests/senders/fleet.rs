//! A database with deliveries, and the processes that send them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use project_webhooks::config::Postgres as Database;
use project_webhooks::domain::event::{Event, EventId, EventKind, Explanation, Origin, Parameter};
use project_webhooks::domain::project::{ContentHash, ProjectKey, Recorded, Stamp};
use project_webhooks::receiver::Received;
use project_webhooks::store::{Batch, Change, NewEvent, Store};

use super::common::{Daemon, Endpoint, Home, Postgres, Settings, Webhook, skip, wait_within};

/// How long a test waits for an outcome.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The length of the leases, in seconds: longer than a process waits on a busy machine.
pub(super) const LEASE: u64 = 10;

/// A database with deliveries to the webhook `all`.
pub(super) struct Fleet {
    pub(super) server: Postgres,
    connection: String,
}

impl Fleet {
    pub(super) fn new(test: &str) -> Option<Self> {
        let Some(server) = Postgres::start() else {
            skip(test, "needs Debian's package postgresql");
            return None;
        };
        let connection = server.connection(&server.database());
        Some(Self { server, connection })
    }

    pub(super) fn settings(&self) -> Database {
        Database {
            connection: self.connection.clone(),
            password: None,
            tls: false,
            lease: Duration::from_secs(LEASE),
            repository: "models".to_owned(),
            repositories: Vec::new(),
        }
    }

    /// Records events `numbers` in turn for the projects. The version tag of each is its number.
    pub(super) fn record(&self, numbers: std::ops::Range<usize>, n_projects: usize) {
        let store = Store::connect(&self.settings()).unwrap();
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(2_000) {
            let mut batch = Batch::new(Timestamp::now());
            let payload = Bytes::from_static(b"<schema name=\"x\"/>");
            let hash = ContentHash::of(&payload);
            batch.payloads = vec![(hash, payload)];
            batch.changes = some
                .iter()
                .map(|number| change(*number, number % n_projects, hash))
                .collect();
            store.record(batch).unwrap();
        }
        store.close();
    }

    /// The home of a process that sends a header with this name.
    pub(super) fn home(&self, endpoint: &Endpoint, name: &str, roles: &str, more: &[&str]) -> Home {
        self.home_for(&endpoint.url(), name, roles, more)
    }

    pub(super) fn home_for(&self, url: &str, name: &str, roles: &str, more: &[&str]) -> Home {
        let mut webhook =
            Webhook::new("all", url).with(&format!("headers: {{ X-Sender: {name} }}"));
        for line in more {
            webhook = match line.strip_prefix("schedule: ") {
                Some(schedule) => webhook.schedule(schedule),
                None => webhook.with(line),
            };
        }
        Home::new(
            &Settings::of([webhook])
                .repository("name: models")
                .top(&format!("roles: {roles}"))
                .top(&format!(
                    "store: {{ postgres: \"{}\", lease: {LEASE}s }}",
                    self.connection
                )),
        )
    }

    pub(super) fn database(&self) -> &str {
        self.connection.rsplit('=').next().unwrap()
    }

    pub(super) fn sql(&self, sql: &str) -> String {
        self.server.sql(self.database(), sql)
    }

    /// Waits until all senders have renewed their leases `n` times.
    pub(super) fn wait_renewals(&self, n_senders: usize, n: usize) {
        let seen = || self.sql("SELECT count(*), min(seen) FROM senders");
        let all = format!("{n_senders}|");
        let mut before = wait_within(PATIENCE, "the senders", || {
            Some(seen()).filter(|seen| seen.starts_with(&all))
        });
        for _ in 0..n {
            before = wait_within(PATIENCE, "a renewal of all senders", || {
                Some(seen()).filter(|seen| *seen != before)
            });
        }
    }

    pub(super) fn n_pending(&self) -> usize {
        let sql = "SELECT count(*) FROM deliveries WHERE state <> 'delivered'";
        self.sql(sql).parse().unwrap()
    }
}

fn change(number: usize, project: usize, hash: ContentHash) -> Change {
    let key = ProjectKey::new("sales", format!("p{project}"));
    let kind = EventKind::SnapshotCreate;
    let tag = number.to_string();
    let stamp = Stamp {
        inode: 7,
        size: 1,
        modified_ns: 2,
        changed_ns: 3,
    };
    let event = Event {
        id: EventId::of(kind, &key, Some(&tag), &stamp, &hash, 0),
        kind,
        key: key.clone(),
        origin: Origin::Live,
        occurred_at: Timestamp::UNIX_EPOCH,
        parameters: vec![
            (Parameter::ProjectName, key.project.clone()),
            (Parameter::VersionTag, tag.clone()),
        ],
        payload: hash,
        explanation: Explanation::default(),
    };
    Change {
        moved_from: None,
        before: Recorded::default(),
        after: Recorded::default(),
        events: vec![NewEvent {
            project_id: key.to_string(),
            event,
            is_arrival: false,
            tag: Some(tag),
            stamp,
            webhooks: vec![("all".to_owned(), Timestamp::UNIX_EPOCH)],
            if_heard: Vec::new(),
        }],
        key,
    }
}

pub(super) fn launch(home: &Home) -> Daemon<'_> {
    Daemon::launch(home, Daemon::command(home))
}

pub(super) fn number(one: &Received) -> usize {
    one.parameter("versionTag").unwrap().parse().unwrap()
}

pub(super) fn senders(all: &[Received]) -> BTreeSet<String> {
    let names = all
        .iter()
        .map(|one| one.header("X-Sender").unwrap().to_owned());
    names.collect()
}

/// Every event came, and the first arrivals of each project are in the order of recording.
pub(super) fn assert_in_order(all: &[Received], n_events: usize) {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    let mut came = BTreeSet::new();
    for one in all {
        if came.insert(number(one)) {
            let project = one.parameter("projectName").unwrap();
            let before = last.insert(project, number(one));
            assert!(
                before.is_none_or(|before| before < number(one)),
                "{project}"
            );
        }
    }
    assert_eq!(came.len(), n_events);
}
