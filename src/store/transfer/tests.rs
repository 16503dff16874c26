//! Kills a move before and after each write, and checks that a later run completes it.

use std::cell::Cell as Shared;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::*;

/// A state in memory, which survives the kill of a simulated process.
#[derive(Clone, Default)]
struct State {
    tables: BTreeMap<&'static str, Vec<Row>>,
    mark: Option<Mark>,
    numbers: Numbers,
    key: [u8; 32],
    version: i64,
}

impl State {
    /// A state with `n` events and payloads.
    fn with(n: i64) -> Self {
        let rows = |table: &str| -> Vec<Row> {
            let columns = TABLES.iter().find(|one| one.name == table).unwrap().columns;
            (0..n)
                .map(|number| {
                    let cell = |(_, kind): &(_, Kind)| match kind {
                        Kind::Text => Cell::Text(format!("{table} {number}")),
                        Kind::Bytes => Cell::Bytes(number.to_le_bytes().to_vec()),
                        _ => Cell::Integer(number),
                    };
                    columns.iter().map(cell).collect()
                })
                .collect()
        };
        Self {
            tables: [("events", rows("events")), ("payloads", rows("payloads"))].into(),
            numbers: Numbers {
                next_event: n + 5,
                ..Numbers::default()
            },
            key: [u8::try_from(n).unwrap(); 32],
            ..Self::default()
        }
    }

    /// Whether a daemon would start with this state.
    fn is_usable(&self) -> bool {
        !matches!(self.mark, Some(Mark::Left { .. } | Mark::Arriving { .. }))
    }

    fn content(&self) -> Content {
        let tables = self.tables.iter().filter(|(_, rows)| !rows.is_empty());
        let tables = tables.map(|(name, rows)| (*name, rows.clone())).collect();
        (tables, self.numbers, self.key)
    }
}

/// The rows of the tables that are not empty, the numbers, and the key.
type Content = (Vec<(&'static str, Vec<Row>)>, Numbers, [u8; 32]);

/// The number of writes until the process is killed. `None` if it is not killed.
#[derive(Clone, Default)]
struct Life(Rc<Shared<Option<usize>>>);

impl Life {
    /// Writes, unless the process is killed before the write.
    ///
    /// Also returns an error if the process is killed after the write.
    fn write(&self, work: impl FnOnce()) -> Result<(), StoreError> {
        let killed = || StoreError::new(&Arc::from("memory"), Fault::Closed);
        match self.0.get() {
            Some(0) => return Err(killed()),
            Some(1) => {
                work();
                self.0.set(Some(0));
                return Err(killed());
            }
            Some(n) => self.0.set(Some(n - 1)),
            None => {}
        }
        work();
        Ok(())
    }
}

struct Memory<'a> {
    name: &'static str,
    state: &'a mut State,
    life: Life,
}

impl Side for Memory<'_> {
    fn location(&self) -> String {
        self.name.to_owned()
    }

    fn mark(&mut self) -> Result<Option<Mark>, StoreError> {
        Ok(self.state.mark.clone())
    }

    fn is_empty(&mut self) -> Result<bool, StoreError> {
        Ok(self.state.tables.values().all(Vec::is_empty))
    }

    fn clear(&mut self, mark: &Mark) -> Result<(), StoreError> {
        self.life.write(|| self.state.mark = Some(mark.clone()))?;
        self.life.write(|| self.state.tables.clear())
    }

    /// The key is the index of a row, and a page has two rows.
    fn page(&mut self, table: &Table, after: Option<&[Cell]>) -> Result<Rows, StoreError> {
        let first = match after {
            Some([Cell::Integer(last)]) => usize::try_from(*last).unwrap() + 1,
            _ => 0,
        };
        let rows = self.state.tables.get(table.name).into_iter().flatten();
        let rows = rows.enumerate().skip(first).take(2);
        Ok(rows
            .map(|(at, row)| (vec![Cell::Integer(i64::try_from(at).unwrap())], row.clone()))
            .collect())
    }

    fn put(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<(), StoreError> {
        self.life.write(|| {
            let stored = self.state.tables.entry(table.name).or_default();
            stored.extend_from_slice(rows);
            self.state.mark = Some(mark.clone());
        })
    }

    fn numbers(&mut self) -> Result<Numbers, StoreError> {
        Ok(self.state.numbers)
    }

    fn complete(&mut self, numbers: Numbers) -> Result<(), StoreError> {
        self.life.write(|| self.state.numbers = numbers)
    }

    fn fingerprint_key(&self) -> [u8; 32] {
        self.state.key
    }

    fn set_fingerprint_key(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        self.life.write(|| self.state.key = *key)
    }

    fn version(&mut self) -> Result<i64, StoreError> {
        Ok(self.state.version)
    }

    fn set_mark(&mut self, mark: &Mark, version: i64) -> Result<bool, StoreError> {
        if self.state.version != version {
            return Ok(false);
        }
        self.life.write(|| self.state.mark = Some(mark.clone()))?;
        Ok(true)
    }
}

/// Runs the command in a process that is killed at the nth write.
fn run(
    from: &mut State,
    to: &mut State,
    killed_at: Option<usize>,
) -> Result<Transferred, TransferError> {
    let life = Life::default();
    life.0.set(killed_at);
    let (mut source, mut target) = (
        Memory {
            name: "source",
            state: from,
            life: life.clone(),
        },
        Memory {
            name: "target",
            state: to,
            life,
        },
    );
    let id = format!("move {killed_at:?}");
    transfer(&mut source, &mut target, id, Vec::new(), &mut |_, _| {})
}

#[test]
fn a_move_that_is_killed_at_any_write_completes_later() {
    let original = State::with(7);
    let mut n_killed = 0;
    for killed_at in 0.. {
        let (mut from, mut to) = (original.clone(), State::default());
        let is_done = run(&mut from, &mut to, Some(killed_at)).is_ok();
        // A daemon can use at most one of the two states, and this state is complete.
        assert!(!(from.is_usable() && to.is_usable() && to.mark.is_some()));
        if from.is_usable() {
            assert_eq!(from.content(), original.content());
        }
        if to.is_usable() && to.mark.is_some() {
            assert_eq!(to.content(), original.content());
        }
        // Run the move again: first with a kill after its first write, and then without a kill.
        let _ = run(&mut from, &mut to, Some(1));
        let moved = run(&mut from, &mut to, None).unwrap();
        assert_eq!(moved.tables.iter().map(|(_, n, _)| n).sum::<u64>(), 14);
        assert_eq!(to.content(), original.content());
        assert!(!from.is_usable() && to.is_usable());
        if is_done {
            break;
        }
        n_killed += 1;
    }
    assert!(n_killed > 20, "{n_killed}");
}

#[test]
fn a_source_that_changed_after_a_kill_is_copied_again() {
    for killed_at in 1..20 {
        let (mut from, mut to) = (State::with(7), State::default());
        assert!(run(&mut from, &mut to, Some(killed_at)).is_err());
        // Meanwhile a daemon used the source. It removed an event and recorded others.
        let mut changed = State::with(9);
        changed.tables.get_mut("events").unwrap().remove(0);
        from.tables = changed.tables.clone();
        from.numbers = changed.numbers;
        from.key = changed.key;
        run(&mut from, &mut to, None).unwrap();
        assert_eq!(to.content(), changed.content(), "{killed_at}");
    }
}

#[test]
fn a_state_goes_back_only_to_where_it_came_from() {
    let (mut first, mut second) = (State::with(3), State::default());
    run(&mut first, &mut second, None).unwrap();
    // Another run changes nothing.
    assert!(run(&mut first, &mut second, None).unwrap().was_done);
    // The target has a state that came from another source.
    let mut other = State::with(4);
    assert!(matches!(
        run(&mut other, &mut second, None),
        Err(TransferError::Occupied { .. })
    ));
    assert!(matches!(
        run(&mut first, &mut State::default(), None),
        Err(TransferError::Left { .. })
    ));
    assert!(matches!(
        run(&mut other, &mut first, None),
        Err(TransferError::Occupied { .. })
    ));
    second.tables.get_mut("events").unwrap().pop();
    let content = second.content();
    run(&mut second, &mut first, None).unwrap();
    assert_eq!(first.content(), content);
    assert!(first.is_usable() && !second.is_usable());
    run(&mut first, &mut second, None).unwrap();
    assert_eq!(second.content(), content);
}
