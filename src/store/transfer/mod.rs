//! Moves a state from one implementation of the store to the other.
//!
//! # Constraints
//!
//! - Daemons must never use both states. So both get a [`Mark`]: no daemon starts with an
//!   incomplete copy, or with a state that was moved away.
//! - The process may be killed at any time, and nothing is lost. The same command, run again,
//!   continues where the killed process stopped, because each page of rows commits together with
//!   the position of its last row.
//! - Before the source is marked as left, checksums of all rows of both states are compared. If
//!   they differ, or if the source is still changing, the copy starts again.
//!
//! The last two steps are in different databases: the source is marked as left, and then the target
//! is marked as arrived. If the process is killed between these steps, no daemon starts with either
//! state. The same command then completes the move.

mod error;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::error::TransferError;
pub(super) use self::table::{Cell, Digest, Kind, Row, TABLES, Table};
use super::batch::{MetaKey, names_of};
use super::error::{Fault, StoreError};
use super::values::{from_json, hash, word};
use crate::domain::project::{FileState, Role, Stamp};

/// The key of the mark in the table `meta`.
pub(super) const MARK: &str = "transfer";

/// The maximum number of copies in one run.
///
/// A copy starts again if the source has changed.
const COPIES_MAX: usize = 3;

/// The role of a state in a transfer. A state without a mark was never moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Mark {
    /// Rows are being copied to this state.
    Arriving {
        id: String,
        from: String,
        position: Position,
        /// The names of the repositories, if several are moved to PostgreSQL.
        ///
        /// Until the move is complete, no process may watch one of them as a single `repository`.
        #[serde(default)]
        names: Vec<String>,
    },
    /// The state was moved here.
    Arrived { id: String, from: String },
    /// The state was moved away.
    Left { id: String, to: String },
}

/// The row after which a copy continues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The index in [`TABLES`].
    table: usize,
    /// The key of the last copied row: its values in the columns by which the source sorts.
    ///
    /// `None` before the first row of the table.
    after: Option<Vec<Cell>>,
}

/// Numbers that must be kept even if the rows that they came from are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) next_event: i64,
    pub(super) next_delivery: i64,
    pub(super) first_repetition: i64,
    pub(super) last_swept_event: i64,
}

/// A page of rows, each with its key, in the order of reading.
pub(super) type Rows = Vec<(Vec<Cell>, Row)>;

/// A state as the source or the target of a move.
///
/// No daemon changes the record of its projects during the move. Another process may still change
/// its deliveries; see [`Side::version`].
pub(super) trait Side {
    /// Returns the name of the state for messages.
    fn location(&self) -> String;

    fn mark(&mut self) -> Result<Option<Mark>, StoreError>;

    /// Returns whether the state has no rows, and never had events or deliveries.
    fn is_empty(&mut self) -> Result<bool, StoreError>;

    /// Removes all rows and sets the mark, whose position is the start of the copy.
    ///
    /// If this takes two transactions, the first one sets the mark. If the process is killed
    /// between them, the next run calls this again.
    fn clear(&mut self, mark: &Mark) -> Result<(), StoreError>;

    /// Reads a page of rows after a key, in the order of the keys.
    ///
    /// Returns no rows at the end.
    fn page(&mut self, table: &Table, after: Option<&[Cell]>) -> Result<Rows, StoreError>;

    /// Inserts rows and sets the mark, in one durable transaction.
    fn put(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<(), StoreError>;

    fn numbers(&mut self) -> Result<Numbers, StoreError>;

    /// Sets the numbers. Also computes the columns that depend on several rows.
    fn complete(&mut self, numbers: Numbers) -> Result<(), StoreError>;

    /// Returns the secret key that hashes the fingerprints of webhooks' settings.
    fn fingerprint_key(&self) -> [u8; 32];

    fn set_fingerprint_key(&mut self, key: &[u8; 32]) -> Result<(), StoreError>;

    /// Returns a number that changes whenever another process changes the state.
    fn version(&mut self) -> Result<i64, StoreError>;

    /// Sets the mark if the state still has this version and no process sends from it.
    ///
    /// Atomic, durable. Returns whether the mark was set.
    fn set_mark(&mut self, mark: &Mark, version: i64) -> Result<bool, StoreError>;
}

/// The result of a move.
#[derive(Clone, Debug)]
pub struct Transferred {
    /// The former place.
    pub from: String,
    /// The new place.
    pub to: String,
    /// Whether an earlier run had already moved the state.
    pub was_done: bool,
    /// Each table with its number of rows and the checksum of the rows.
    pub tables: Vec<(&'static str, u64, String)>,
}

/// A callback for progress.
///
/// It gets the name of a copied table and the number of copied rows.
pub type Copied<'a> = &'a mut dyn FnMut(&'static str, u64);

/// Moves the state of the source to the target. A new move gets this `id`.
///
/// `names` has the names of the repositories, if several are moved to PostgreSQL. Otherwise it is
/// empty.
pub(super) fn transfer(
    source: &mut dyn Side,
    target: &mut dyn Side,
    id: String,
    names: Vec<String>,
    copied: Copied<'_>,
) -> Result<Transferred, TransferError> {
    let mut copy = match begin(source, target, id, names)? {
        Begun::Copy(copy) => copy,
        Begun::Done => {
            let tables = digests(target)?;
            return Ok(transferred(source, target, true, &tables));
        }
    };
    let mut n_copies = 1_usize;
    loop {
        copy.rows(source, target, copied)?;
        target.set_fingerprint_key(&source.fingerprint_key())?;
        let version = source.version()?;
        target.complete(source.numbers()?)?;
        let (of_source, of_target) = (digests(source)?, digests(target)?);
        let are_same = source.numbers()? == target.numbers()?;
        let different =
            first_difference(&of_source, &of_target).or((!are_same).then_some("numbers"));
        if different.is_none() {
            let left = Mark::Left {
                id: copy.id.clone(),
                to: target.location(),
            };
            if source.set_mark(&left, version)? {
                let arrived = Mark::Arrived {
                    id: copy.id,
                    from: source.location(),
                };
                let version = target.version()?;
                if !target.set_mark(&arrived, version)? {
                    return Err(TransferError::Different {
                        origin: source.location(),
                        target: target.location(),
                        table: "rows",
                    });
                }
                return Ok(transferred(source, target, false, &of_target));
            }
        }
        // Probably the source is changing now, or changed after an earlier run was interrupted.
        if n_copies == COPIES_MAX {
            return Err(TransferError::Different {
                origin: source.location(),
                target: target.location(),
                table: different.unwrap_or("rows"),
            });
        }
        n_copies = n_copies.saturating_add(1);
        copy.again(target)?;
    }
}

/// Checks that source and configuration both have one repository, or both several.
///
/// Otherwise the keys of the records would differ. A source without a record passes. Returns the
/// names of the source's repositories. If there is only one repository, returns no names.
pub(super) fn check_form(
    source: &mut dyn Side,
    is_for_several: bool,
) -> Result<BTreeSet<String>, TransferError> {
    let several = MetaKey::HasRepositories.as_str();
    let (of_one, _) = MetaKey::FirstStart.range();
    let (mut has_several, mut has_record) = (false, false);
    let mut names = BTreeSet::new();
    let mut after: Option<Vec<Cell>> = None;
    for table in TABLES.iter().filter(|table| table.name == "meta") {
        loop {
            let rows = source.page(table, after.as_deref())?;
            for (_, row) in &rows {
                let [Cell::Text(key), Cell::Text(value)] = row.as_slice() else {
                    continue;
                };
                if key == several {
                    has_several = true;
                    let listed = names_of(Some(value))
                        .map_err(|fault| StoreError::new(&source.location().into(), fault))?;
                    names.extend(listed);
                }
                has_record |= key == several || key == MetaKey::FirstStart.as_str();
                names.extend(key.strip_prefix(&of_one).map(str::to_owned));
            }
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
    }
    match has_record && has_several != is_for_several {
        true => Err(TransferError::OtherRecord {
            origin: source.location(),
            has_several,
        }),
        false => Ok(names),
    }
}

/// How a transfer begins.
enum Begun {
    Copy(Copy),
    Done,
}

fn begin(
    source: &mut dyn Side,
    target: &mut dyn Side,
    id: String,
    names: Vec<String>,
) -> Result<Begun, TransferError> {
    let (from, occupied) = (
        source.location(),
        TransferError::Occupied {
            target: target.location(),
        },
    );
    let mut copy = Copy {
        id,
        from: from.clone(),
        position: Position::default(),
        names,
    };
    match (source.mark()?, target.mark()?) {
        (Some(Mark::Arriving { from, .. }), _) => {
            let origin = source.location();
            Err(TransferError::Incomplete { origin, from })
        }
        (Some(Mark::Left { id, .. }), Some(Mark::Arrived { id: found, .. })) if id == found => {
            Ok(Begun::Done)
        }
        // An earlier run was interrupted between the last two steps.
        (
            Some(Mark::Left { id, .. }),
            Some(Mark::Arriving {
                id: found,
                position,
                ..
            }),
        ) if id == found => Ok(Begun::Copy(Copy {
            id,
            position,
            ..copy
        })),
        (Some(Mark::Left { to, .. }), _) => {
            let origin = source.location();
            Err(TransferError::Left { origin, to })
        }
        (
            _,
            Some(Mark::Arriving {
                id,
                from,
                position,
                names,
            }),
        ) => {
            if from != source.location() {
                let target = target.location();
                return Err(TransferError::OtherCopy { target, from });
            }
            copy.id = id;
            match position == Position::default() || names != copy.names {
                true => copy.again(target)?,
                false => copy.position = position,
            }
            Ok(Begun::Copy(copy))
        }
        // The state came from this target and now moves back.
        (Some(Mark::Arrived { id, .. }), Some(Mark::Left { id: found, .. })) if id == found => {
            copy.again(target)?;
            Ok(Begun::Copy(copy))
        }
        (_, None) if target.is_empty()? => {
            copy.again(target)?;
            Ok(Begun::Copy(copy))
        }
        (_, None | Some(Mark::Arrived { .. } | Mark::Left { .. })) => Err(occupied),
    }
}

/// A copy in progress.
struct Copy {
    id: String,
    from: String,
    position: Position,
    /// The names of the repositories, if several are moved to PostgreSQL.
    names: Vec<String>,
}

impl Copy {
    fn mark(&self) -> Mark {
        Mark::Arriving {
            id: self.id.clone(),
            from: self.from.clone(),
            position: self.position.clone(),
            names: self.names.clone(),
        }
    }

    /// Empties the target and starts again.
    fn again(&mut self, target: &mut dyn Side) -> Result<(), StoreError> {
        self.position = Position::default();
        target.clear(&self.mark())
    }

    /// Copies all rows after the position, table by table.
    fn rows(
        &mut self,
        source: &mut dyn Side,
        target: &mut dyn Side,
        copied: Copied<'_>,
    ) -> Result<(), StoreError> {
        let first = self.position.table;
        for (index, table) in TABLES.iter().enumerate().skip(first) {
            let mut n_rows = 0_u64;
            loop {
                let after = self.position.after.as_deref();
                let (mut keys, rows): (Vec<_>, Vec<_>) =
                    source.page(table, after)?.into_iter().unzip();
                match keys.pop() {
                    Some(last) => self.position.after = Some(last),
                    None => {
                        self.position = Position {
                            table: index.saturating_add(1),
                            after: None,
                        };
                    }
                }
                n_rows = n_rows.saturating_add(rows.len() as u64);
                target.put(table, &rows, &self.mark())?;
                if rows.is_empty() {
                    break;
                }
            }
            copied(table.name, n_rows);
        }
        Ok(())
    }
}

fn transferred(
    source: &dyn Side,
    target: &dyn Side,
    was_done: bool,
    tables: &[Digest],
) -> Transferred {
    Transferred {
        from: source.location(),
        to: target.location(),
        was_done,
        tables: TABLES
            .iter()
            .zip(tables)
            .map(|(table, digest)| (table.name, digest.n_rows, digest.checksum()))
            .collect(),
    }
}

/// Returns the identity of the definition in a row of the table `files`.
///
/// `None` for a published copy or a snapshot.
pub(super) fn identity(row: &Row) -> Result<Option<String>, Fault> {
    let columns = TABLES.iter().find(|table| table.name == "files");
    let cell = |name: &str| {
        let index = columns?
            .columns
            .iter()
            .position(|(column, _)| *column == name)?;
        row.get(index)
    };
    let text = |name: &str| match cell(name) {
        Some(Cell::Text(text)) => text.as_str(),
        _ => "",
    };
    let what = format!("the record of {}", text("path"));
    let role = word(&what, text("role"), Role::from_word)?;
    if !matches!(role, Role::Definition | Role::Deleted) {
        return Ok(None);
    }
    let bytes = match cell("hash") {
        Some(Cell::Bytes(bytes)) => bytes.as_slice(),
        _ => &[],
    };
    let file = FileState {
        role: Role::Definition,
        tag: None,
        stamp: Stamp {
            inode: 0,
            size: 0,
            modified_ns: 0,
            changed_ns: 0,
        },
        read_ns: 0,
        hash: hash(&what, bytes)?,
        owner: String::new(),
        document: from_json(&what, text("document"))?,
        path: String::new(),
    };
    Ok(Some(file.identity().to_string()))
}

/// Reads all tables. Returns the digest of each.
fn digests(side: &mut dyn Side) -> Result<Vec<Digest>, StoreError> {
    TABLES
        .iter()
        .map(|table| {
            let mut digest = Digest::default();
            let mut after: Option<Vec<Cell>> = None;
            loop {
                let rows = side.page(table, after.as_deref())?;
                for (_, row) in &rows {
                    digest.add(row);
                }
                match rows.into_iter().last() {
                    Some((key, _)) => after = Some(key),
                    None => return Ok(digest),
                }
            }
        })
        .collect()
}

/// Returns the name of the first table that differs.
fn first_difference(one: &[Digest], other: &[Digest]) -> Option<&'static str> {
    let mut digests = one.iter().zip(other);
    let index = digests.position(|(one, other)| one != other)?;
    TABLES.get(index).map(|table| table.name)
}
