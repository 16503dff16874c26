//! Collects the records of each system call, until its end.
//!
//! Constraint: any input takes only limited memory. A call is complete only if all its path records
//! arrived. On [`Assembled::Lost`], the reader of the records must discard all earlier changes,
//! because the missing record may be about the same files.

use std::collections::{BTreeMap, VecDeque};

use super::record::{Body, CallFields, EventKey, PathItem, parse};

/// The maximum number of open calls. A call is open until its end record arrives.
const OPEN_MAX: usize = 256;

/// The maximum number of path records of a call. A rename has at most six.
const ITEMS_MAX: usize = 64;

/// A system call with its path records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub(super) key: EventKey,
    pub(super) fields: CallFields,
    pub(super) items: Vec<PathItem>,
    /// The flags for opening a file, if the call is openat2(2).
    pub(super) open_flags: Option<u64>,
}

/// The result of adding a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembled {
    /// The record completes no successful call, and shows no loss.
    Nothing,
    /// The record completes this call.
    Complete(Box<Call>),
    /// A record is missing, a call has too many path records, or too many calls are open.
    Lost,
}

/// Collects the records of open calls.
#[derive(Debug, Default)]
pub struct Assembler {
    open: BTreeMap<EventKey, Call>,
    order: VecDeque<EventKey>,
    /// The serial number of the first call since the start or the last [`Self::clear`].
    first: Option<u64>,
}

impl Assembler {
    /// Adds a record with this type and text.
    pub fn take(&mut self, kind: u16, text: &[u8]) -> Assembled {
        match parse(kind, text) {
            Some((key, Body::Call(fields))) => self.begin(key, *fields),
            Some((key, Body::Path(item))) => self.add(key, |call| {
                // Keep one record above the limit, so that `end` notices the excess.
                if call.items.len() <= ITEMS_MAX {
                    call.items.push(item);
                }
            }),
            Some((key, Body::OpenFlags(flags))) => self.add(key, |call| {
                call.open_flags = call.open_flags.or(Some(flags));
            }),
            Some((key, Body::End)) => self.end(key),
            None => Assembled::Nothing,
        }
    }

    /// Forgets all open calls.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of open calls.
    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    fn begin(&mut self, key: EventKey, fields: CallFields) -> Assembled {
        if self.open.contains_key(&key) {
            return Assembled::Nothing;
        }
        let call = Call {
            key,
            fields,
            items: Vec::new(),
            open_flags: None,
        };
        self.first.get_or_insert(key.serial);
        self.open.insert(key, call);
        self.order.push_back(key);
        let mut has_lost = false;
        while self.order.len() > OPEN_MAX {
            let oldest = self.order.pop_front();
            has_lost |= oldest.is_some_and(|oldest| self.open.remove(&oldest).is_some());
        }
        match has_lost {
            true => Assembled::Lost,
            false => Assembled::Nothing,
        }
    }

    /// Applies `add` to an open call.
    fn add(&mut self, key: EventKey, add: impl FnOnce(&mut Call)) -> Assembled {
        let Some(call) = self.open.get_mut(&key) else {
            return self.unknown(key);
        };
        add(call);
        Assembled::Nothing
    }

    /// Returns [`Assembled::Lost`] if the first record of this call was lost.
    ///
    /// A call with a lower serial number than the first known call began before the start or the
    /// last [`Self::clear`], so its first record could not arrive.
    fn unknown(&self, key: EventKey) -> Assembled {
        match self.first.is_some_and(|first| key.serial > first) {
            true => Assembled::Lost,
            false => Assembled::Nothing,
        }
    }

    fn end(&mut self, key: EventKey) -> Assembled {
        let Some(call) = self.open.remove(&key) else {
            return self.unknown(key);
        };
        // Calls usually end in the order in which they began, so usually the first entry matches.
        if let Some(position) = self.order.iter().position(|open| *open == key) {
            self.order.remove(position);
        }
        if !call.fields.has_succeeded {
            return Assembled::Nothing;
        }
        match call.items.len() == call.fields.n_items && call.items.len() <= ITEMS_MAX {
            true => Assembled::Complete(Box::new(call)),
            false => Assembled::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::record::{END, PATH, SYSCALL};

    fn call(serial: u64, items: usize, success: &str) -> String {
        format!(
            "audit(5.123:{serial}): arch=c000003e syscall=87 success={success} exit=0 a0=0 a1=0 a2=0 \
             a3=0 items={items} ppid=1 pid=2 auid=1001 uid=0 euid=0 exe=\"/bin/rm\" key=(null)"
        )
    }

    fn item(serial: u64, n: usize) -> String {
        format!("audit(5.123:{serial}): item={n} name=\"a\" inode=5 dev=08:01 nametype=DELETE")
    }

    fn end(serial: u64) -> String {
        format!("audit(5.123:{serial}): ")
    }

    fn take(assembler: &mut Assembler, kind: u16, text: &str) -> Assembled {
        assembler.take(kind, text.as_bytes())
    }

    #[test]
    fn interleaved_calls_are_kept_apart() {
        let mut assembler = Assembler::default();
        let a = &mut assembler;
        for serial in [1, 2] {
            assert_eq!(
                take(a, SYSCALL, &call(serial, 2, "yes")),
                Assembled::Nothing
            );
        }
        for serial in [2, 1, 1, 2] {
            assert_eq!(take(a, PATH, &item(serial, 0)), Assembled::Nothing);
        }
        for serial in [2, 1] {
            match take(a, END, &end(serial)) {
                Assembled::Complete(call) => assert_eq!(call.key.serial, serial),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(take(a, END, &end(1)), Assembled::Nothing);
        assert_eq!(a.n_open(), 0);
    }

    #[test]
    fn a_missing_record_is_noticed() {
        let mut assembler = Assembler::default();
        let a = &mut assembler;
        take(a, SYSCALL, &call(1, 2, "yes"));
        take(a, PATH, &item(1, 0));
        assert_eq!(take(a, END, &end(1)), Assembled::Lost);
        // A failed call changes nothing.
        take(a, SYSCALL, &call(2, 2, "no"));
        assert_eq!(take(a, END, &end(2)), Assembled::Nothing);
        // These records are of a call that began before the reader started.
        take(a, PATH, &item(0, 0));
        assert_eq!(take(a, END, &end(0)), Assembled::Nothing);
    }

    #[test]
    fn a_call_without_its_first_record_is_noticed() {
        let mut assembler = Assembler::default();
        let a = &mut assembler;
        take(a, SYSCALL, &call(5, 0, "yes"));
        assert!(matches!(take(a, END, &end(5)), Assembled::Complete(_)));
        // This call may have begun before the reader started.
        assert_eq!(take(a, END, &end(4)), Assembled::Nothing);
        assert_eq!(take(a, PATH, &item(6, 0)), Assembled::Lost);
        assert_eq!(take(a, END, &end(6)), Assembled::Lost);
        // A malformed record has the same effect as a missing one.
        take(a, SYSCALL, "audit(5.123:7): success=yes");
        assert_eq!(take(a, END, &end(7)), Assembled::Lost);
        // A call that never returns, such as exit_group(2), has no result.
        take(
            a,
            SYSCALL,
            &call(8, 0, "yes").replace(" success=yes exit=0", ""),
        );
        assert_eq!(take(a, END, &end(8)), Assembled::Nothing);
        a.clear();
        assert_eq!(take(a, END, &end(9)), Assembled::Nothing);
    }

    #[test]
    fn open_calls_and_items_are_bounded() {
        let mut assembler = Assembler::default();
        let a = &mut assembler;
        let mut n_lost = 0;
        for serial in 0..1_000 {
            n_lost += usize::from(take(a, SYSCALL, &call(serial, 0, "yes")) == Assembled::Lost);
            assert!(a.n_open() <= OPEN_MAX);
        }
        assert_eq!(n_lost, 1_000 - OPEN_MAX);
        take(a, SYSCALL, &call(5_000, 4_000, "yes"));
        for n in 0..4_000 {
            take(a, PATH, &item(5_000, n));
        }
        assert_eq!(take(a, END, &end(5_000)), Assembled::Lost);
    }
}
