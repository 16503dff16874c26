//! Derives changes of files and directories from a system call.
//!
//! Constraint: a caller may write a path in any form. So a name is identified by the last component
//! of its path and the inode of its directory. Sometimes the records do not show in which of two
//! directories a name is, for example if the caller passed descriptors. Then both
//! directories are possible.

use std::sync::Arc;

use super::assemble::Call;
use super::memory::Act;
use super::record::{CallFields, ItemKind, PathItem};

/// The major and minor number of a file system's device.
pub type Device = (u32, u32);

/// The device and inode of a file or directory.
pub type Node = (Device, u64);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory.
    pub directory: Node,
    /// The name.
    pub name: Arc<[u8]>,
}

/// The kind of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The file was opened for writing, or truncated.
    Wrote,
    /// The file or directory got a name in a directory.
    Appeared {
        /// The place of the name, or two places if the name may be in either of two directories.
        places: Vec<Place>,
        /// Whether the name appeared by a rename. A renamed directory may already have contents.
        is_moved: bool,
    },
    /// The file or directory lost a name in a directory.
    Vanished {
        /// The place of the name, or two places if the name may be in either of two directories.
        places: Vec<Place>,
        /// Whether the name vanished by a rename.
        is_moved: bool,
    },
}

/// A change of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The system call.
    pub act: Arc<Act>,
    /// The file or directory.
    pub node: Node,
    /// The kind of the change.
    pub deed: Deed,
}

/// Converts a system call to an [`Act`] and its changes.
///
/// `key` is the key of the audit rule.
pub fn changes(call: Call, key: &str) -> (Arc<Act>, Vec<Change>) {
    let Call {
        key: event,
        fields,
        items,
        open_flags,
    } = call;
    let writes = opens_for_writing(&fields, open_flags);
    let has_kind_of = |kind: ItemKind, node: Node| {
        let mut items = items.iter();
        items.any(|item| item.kind == kind && item.node == Some(node))
    };
    let mut found: Vec<(Node, Deed)> = Vec::new();
    for item in &items {
        let Some(node) = item.node else { continue };
        match item.kind {
            ItemKind::Normal if writes => found.push((node, Deed::Wrote)),
            ItemKind::Create => {
                if writes {
                    found.push((node, Deed::Wrote));
                }
                let is_moved = has_kind_of(ItemKind::Delete, node);
                if let Some(places) = places(item, &items) {
                    found.push((node, Deed::Appeared { places, is_moved }));
                }
            }
            ItemKind::Delete => {
                let is_moved = has_kind_of(ItemKind::Create, node);
                if let Some(places) = places(item, &items) {
                    found.push((node, Deed::Vanished { places, is_moved }));
                }
            }
            ItemKind::Normal | ItemKind::Parent | ItemKind::Other => {}
        }
    }
    let act = Arc::new(Act {
        serial: event.serial,
        time_ms: event.time_ms,
        login: fields.login,
        effective: fields.effective,
        pid: fields.pid,
        program: fields.program,
        has_key: fields.keys.iter().any(|found| found == key),
        key: fields.keys.into_iter().next(),
    });
    let changes = found
        .into_iter()
        .map(|(node, deed)| Change {
            act: Arc::clone(&act),
            node,
            deed,
        })
        .collect();
    (act, changes)
}

/// Returns an item's possible places: its name in each directory that may contain it.
///
/// Returns `None` if the record has no usable name, or if no directory or more than two are
/// possible.
fn places(item: &PathItem, items: &[PathItem]) -> Option<Vec<Place>> {
    let name = trimmed(item.name.as_deref()?);
    let start = name
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let (above, last) = name.split_at_checked(start)?;
    if last.is_empty() || last == b"." || last == b".." {
        return None;
    }
    let parents = || items.iter().filter(|item| item.kind == ItemKind::Parent);
    // The kernel writes the names of parents with a final slash, except the name of the working
    // directory. That name has a final slash only if it is `/`.
    let is_named = |parent: &&PathItem| match parent.name.as_deref() {
        Some(named) if above.is_empty() => !named.ends_with(b"/") || named == b"/",
        Some(named) => named == above,
        None => above.is_empty(),
    };
    let mut directories: Vec<Node> = parents()
        .filter(is_named)
        .filter_map(|one| one.node)
        .collect();
    if directories.is_empty() {
        directories = parents().filter_map(|one| one.node).collect();
    }
    directories.sort_unstable();
    directories.dedup();
    if directories.is_empty() || directories.len() > 2 {
        return None;
    }
    let name: Arc<[u8]> = last.into();
    let place = |directory| Place {
        directory,
        name: Arc::clone(&name),
    };
    Some(directories.into_iter().map(place).collect())
}

/// Removes trailing slashes.
fn trimmed(name: &[u8]) -> &[u8] {
    let end = name
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    name.get(..end).unwrap_or_default()
}

/// Where the records of a system call have the flags of open(2).
enum Flags {
    /// In the argument with this index.
    Argument(usize),
    /// In the record of the type `AUDIT_OPENAT2`.
    OpenAt2,
    /// Nowhere: the call always writes.
    Always,
}

/// Whether a call opens a file for writing, or truncates a file.
///
/// An audit rule with `perm=wa` also reports calls such as chmod(2), which do not write. The
/// numbers of calls depend on the architecture. On an architecture that is not listed, no user is
/// found for files that were written in place.
fn opens_for_writing(call: &CallFields, open_flags: Option<u64>) -> bool {
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    const AARCH64: u32 = 0xc000_00b7;
    const RISCV64: u32 = 0xc000_00f3;
    const LOONGARCH64: u32 = 0xc000_0102;
    // O_ACCMODE and O_TRUNC have these values on all architectures above.
    let writes = |flags: u64| flags & 0o3 != 0 || flags & 0o1000 != 0;
    let Some((arch, number)) = call.number else {
        return open_flags.is_some_and(writes);
    };
    let flags = match (arch, number) {
        (X86_64, 2) | (I386 | ARM, 5) => Flags::Argument(1),
        (X86_64, 257 | 304)
        | (I386, 295 | 342)
        | (ARM, 322 | 371)
        | (AARCH64 | RISCV64 | LOONGARCH64, 56 | 265) => Flags::Argument(2),
        (X86_64 | I386 | ARM | AARCH64 | RISCV64 | LOONGARCH64, 437) => Flags::OpenAt2,
        (X86_64, 76 | 85) | (I386 | ARM, 8 | 92 | 193) | (AARCH64 | RISCV64 | LOONGARCH64, 45) => {
            Flags::Always
        }
        _ => return false,
    };
    match flags {
        Flags::Argument(index) => call.arguments.get(index).copied().is_some_and(writes),
        Flags::OpenAt2 => open_flags.is_some_and(writes),
        Flags::Always => true,
    }
}
