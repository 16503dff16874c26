//! The tables of a state, with the columns that every implementation has.
//!
//! Constraint: a move must copy everything that a daemon needs. So tests compare these columns with
//! the columns of each implementation's database. Columns that the target can fill in by itself are
//! not listed. [`Numbers`](super::Numbers) and the key of fingerprints are moved separately.

use serde::{Deserialize, Serialize};

#[derive(Debug)]
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) columns: &'static [(&'static str, Kind)],
    /// The columns that identify a row.
    pub(in crate::store) key: &'static [&'static str],
    /// The column with most of a row's bytes. `None` for a table with small rows.
    pub(in crate::store) large: Option<&'static str>,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Integer,
    /// An integer that has 32 bits in PostgreSQL.
    Small,
    /// 0 or 1 in SQLite.
    Boolean,
    Text,
    Bytes,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The cells of a row, in the order of [`Table::columns`].
pub(in crate::store) type Row = Vec<Cell>;

use Kind::{Boolean, Bytes, Integer, Small, Text};

/// The copied tables, in the order of copying. The large payloads come first.
///
/// The mark of an interrupted move has an index into this list.
pub(in crate::store) const TABLES: &[Table] = &[
    Table {
        name: "payloads",
        columns: &[("hash", Bytes), ("size", Integer), ("compressed", Bytes)],
        key: &["hash"],
        large: Some("compressed"),
    },
    Table {
        name: "meta",
        columns: &[("key", Text), ("value", Text)],
        key: &["key"],
        large: None,
    },
    Table {
        name: "files",
        columns: &[
            ("organization", Text),
            ("project", Text),
            ("path", Text),
            ("role", Text),
            ("tag", Text),
            ("inode", Integer),
            ("size", Integer),
            ("modified_ns", Integer),
            ("changed_ns", Integer),
            ("read_ns", Integer),
            ("hash", Bytes),
            ("owner", Text),
            ("document", Text),
        ],
        key: &["organization", "project", "path"],
        large: None,
    },
    Table {
        name: "problems",
        columns: &[
            ("organization", Text),
            ("project", Text),
            ("path", Text),
            ("reason", Text),
            ("line", Integer),
            ("column", Integer),
            ("may_resolve", Boolean),
            ("since_ms", Integer),
        ],
        key: &["organization", "project", "path"],
        large: None,
    },
    Table {
        name: "events",
        columns: &[
            ("sequence", Integer),
            ("id", Text),
            ("repetition", Integer),
            ("kind", Text),
            ("organization", Text),
            ("project", Text),
            ("origin", Text),
            ("occurred_ns", Integer),
            ("recorded_ms", Integer),
            ("parameters", Text),
            ("explanation", Text),
            ("payload", Bytes),
        ],
        key: &["sequence"],
        large: None,
    },
    Table {
        name: "moves",
        columns: &[
            ("batch", Integer),
            ("organization", Text),
            ("project", Text),
            ("last_event", Integer),
            ("to_organization", Text),
            ("to_project", Text),
        ],
        key: &["batch", "organization", "project"],
        large: None,
    },
    Table {
        name: "webhooks",
        columns: &[
            ("name", Text),
            ("fingerprint", Bytes),
            ("off_cause", Text),
            ("off_reason", Text),
            ("off_at_ms", Integer),
            ("last_error", Text),
            ("last_error_ms", Integer),
            ("rests_until_ms", Integer),
            ("rests_since_ms", Integer),
            ("last_delivered_ms", Integer),
        ],
        key: &["name"],
        large: None,
    },
    Table {
        name: "listeners",
        columns: &[("organization", Text), ("project", Text), ("webhook", Text)],
        key: &["organization", "project", "webhook"],
        large: None,
    },
    Table {
        name: "deliveries",
        columns: &[
            ("id", Integer),
            ("event", Integer),
            ("webhook", Text),
            ("organization", Text),
            ("project", Text),
            ("state", Text),
            ("is_head", Boolean),
            ("is_delete", Boolean),
            ("project_id", Bytes),
            ("origin", Text),
            ("n_attempts", Integer),
            ("n_attempts_before", Integer),
            ("n_redeliveries", Integer),
            ("due_ms", Integer),
            ("is_due_as_asked", Boolean),
            ("created_ms", Integer),
            ("waiting_ms", Integer),
            ("finished_ms", Integer),
            ("last_status", Small),
            ("last_error", Text),
        ],
        key: &["id"],
        large: None,
    },
    Table {
        name: "attempts",
        columns: &[
            ("delivery", Integer),
            ("number", Integer),
            ("at_ms", Integer),
            ("duration_ms", Integer),
            ("status", Small),
            ("error", Text),
            ("request_headers", Text),
            ("answer", Bytes),
            ("answer_size", Integer),
        ],
        key: &["delivery", "number"],
        large: Some("answer"),
    },
];

/// The number of rows, and a checksum of their values.
///
/// The checksum does not depend on the order of the rows, because each implementation reads them in
/// its own order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Digest {
    pub(in crate::store) n_rows: u64,
    sum: u128,
}

impl Digest {
    pub(in crate::store) fn add(&mut self, row: &Row) {
        let mut hasher = blake3::Hasher::new();
        for cell in row {
            let (tag, bytes): (u8, &[u8]) = match cell {
                Cell::Null => (0, &[]),
                Cell::Integer(number) => (1, &number.to_le_bytes()),
                Cell::Text(text) => (2, text.as_bytes()),
                Cell::Bytes(bytes) => (3, bytes),
            };
            hasher.update(&[tag]);
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        let mut half = [0; 16];
        for (to, from) in half.iter_mut().zip(hasher.finalize().as_bytes()) {
            *to = *from;
        }
        self.n_rows = self.n_rows.saturating_add(1);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }

    pub(in crate::store) fn checksum(&self) -> String {
        format!("{:032x}", self.sum)
    }
}
