//! Tests on a model of a directory tree: system calls, then questions with the expected answers.

use super::*;
use crate::actor::{Assembled, Assembler, changes};

const FILE: u64 = 50;
const PROJECT: u64 = 40;
const ORGANIZATION: u64 = 30;
const ROOT: u64 = 2;

fn node(inode: u64) -> Node {
    ((8, 1), inode)
}

/// Feeds the records of system calls to the memory. Times are in milliseconds.
#[derive(Default)]
struct Log {
    memory: Memory,
    assembler: Assembler,
    serial: u64,
}

impl Log {
    /// Adds a call of a user: its number on `x86_64`, its flags, and its items `KIND NAME INODE`.
    fn call(&mut self, user: u32, time_ms: i64, number: u32, flags: u64, items: &[&str]) {
        self.keyed(user, time_ms, number, flags, items, "\"project-webhooks\"");
    }

    fn keyed(
        &mut self,
        user: u32,
        time_ms: i64,
        number: u32,
        flags: u64,
        items: &[&str],
        key: &str,
    ) {
        self.serial += 1;
        let head = format!(
            "audit({}.{:03}:{}): ",
            time_ms / 1000,
            time_ms % 1000,
            self.serial
        );
        let call = format!(
            "{head}arch=c000003e syscall={number} success=yes exit=0 a0=0 a1={flags:x} a2={flags:x} \
             a3=0 items={} ppid=1 pid=7 auid={user} uid=0 euid=0 exe=\"/bin/x\" key={key}",
            items.len()
        );
        self.assembler.take(1300, call.as_bytes());
        for (n, item) in items.iter().enumerate() {
            let words: Vec<&str> = item.split(' ').collect();
            let text = format!(
                "{head}item={n} name=\"{}\" inode={} dev=08:01 mode=0100644 nametype={}",
                words[1], words[2], words[0]
            );
            self.assembler.take(1302, text.as_bytes());
        }
        match self.assembler.take(1320, head.as_bytes()) {
            Assembled::Complete(call) => {
                let (act, changes) = changes(*call, "project-webhooks");
                self.memory.add(&act, changes);
            }
            other => panic!("{other:?}"),
        }
    }

    fn remove(&mut self, user: u32, time_ms: i64, directory: u64, name: &str, inode: u64) {
        let parent = format!("PARENT /somewhere {directory}");
        self.call(
            user,
            time_ms,
            263,
            0,
            &[&parent, &format!("DELETE {name} {inode}")],
        );
    }

    fn create(&mut self, user: u32, time_ms: i64, directory: u64, name: &str, inode: u64) {
        let parent = format!("PARENT /somewhere {directory}");
        self.call(
            user,
            time_ms,
            257,
            0o1101,
            &[&parent, &format!("CREATE {name} {inode}")],
        );
    }

    fn make_directory(&mut self, user: u32, time_ms: i64, directory: u64, name: &str, inode: u64) {
        let parent = format!("PARENT /somewhere {directory}");
        self.call(
            user,
            time_ms,
            83,
            0,
            &[&parent, &format!("CREATE {name} {inode}")],
        );
    }

    /// Adds a rename. `from` and `to` are a directory and a name. `over` is a replaced file.
    fn rename(
        &mut self,
        user: u32,
        time_ms: i64,
        from: (u64, &str),
        to: (u64, &str),
        inode: u64,
        over: Option<u64>,
    ) {
        let (old, new) = (format!("/d{}/", from.0), format!("/d{}/", to.0));
        let mut items = vec![
            format!("PARENT {new} {}", to.0),
            format!("PARENT {old} {}", from.0),
            format!("DELETE {old}{} {inode}", from.1),
        ];
        items.extend(over.map(|over| format!("DELETE {new}{} {over}", to.1)));
        items.push(format!("CREATE {new}{} {inode}", to.1));
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        self.call(user, time_ms, 82, 0, &items);
    }

    fn write(&mut self, user: u32, time_ms: i64, inode: u64) {
        self.call(user, time_ms, 257, 0o1001, &[&format!("NORMAL x {inode}")]);
    }

    fn user(&self, question: &Question) -> Option<u32> {
        self.memory.answer(question).and_then(|act| act.login)
    }
}

/// Returns the path `org/project/project.xml`, with these existing directories below the root.
fn path(existing: &[u64]) -> PathNodes {
    let directories = std::iter::once(&ROOT).chain(existing);
    PathNodes {
        directories: directories.map(|inode| node(*inode)).collect(),
        names: ["org", "project", "project.xml"]
            .map(|name| Arc::from(name.as_bytes()))
            .into(),
    }
}

fn gone(existing: &[u64], since_ms: i64) -> Question {
    Question {
        path: path(existing),
        asked: Asked::Vanished {
            node: node(FILE),
            since_ns: since_ms * 1_000_000,
            replaced_by: None,
        },
    }
}

fn appeared(changed_ms: i64, depth: usize) -> Question {
    Question {
        path: path(&[ORGANIZATION, PROJECT]),
        asked: Asked::Appeared {
            node: node(FILE),
            changed_ns: changed_ms * 1_000_000 + 400_000,
            depth,
        },
    }
}

fn rewritten(changed_ms: i64, since_ms: i64) -> Question {
    Question {
        path: path(&[ORGANIZATION, PROJECT]),
        asked: Asked::Rewritten {
            node: node(FILE),
            changed_ns: changed_ms * 1_000_000 + 400_000,
            since_ns: since_ms * 1_000_000 + 400_000,
        },
    }
}

#[test]
fn a_removed_file_was_removed_by_the_last_who_removed_it() {
    let mut log = Log::default();
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
    log.remove(1, 1_000, PROJECT, "project.xml", FILE);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), Some(1));
    // A second user creates the file again, and a third user removes it.
    log.create(2, 1_100, PROJECT, "project.xml", 51);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
    log.remove(3, 1_200, PROJECT, "project.xml", 51);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), Some(3));
    // The recorded state is later, so an earlier file was removed.
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 1_300)), None);
}

#[test]
fn another_name_of_the_file_proves_nothing() {
    let mut log = Log::default();
    log.remove(1, 1_000, 77, "project.xml", FILE);
    log.remove(1, 1_000, PROJECT, "link.xml", FILE);
    log.write(1, 1_000, FILE);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
}

#[test]
fn a_removed_directory_names_who_removed_the_file_in_it() {
    let mut log = Log::default();
    log.remove(1, 1_000, PROJECT, "project.xml", FILE);
    log.remove(2, 1_010, ORGANIZATION, "project", PROJECT);
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), Some(1));
    log.remove(3, 1_020, ROOT, "org", ORGANIZATION);
    assert_eq!(log.user(&gone(&[], 900)), Some(1));
    // Without a record about the file, the removal of its directory proves nothing.
    let mut log = Log::default();
    log.remove(2, 1_010, ORGANIZATION, "project", PROJECT);
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), None);
}

#[test]
fn a_directory_that_was_moved_away_names_the_mover() {
    let mut log = Log::default();
    log.rename(
        1,
        1_000,
        (ORGANIZATION, "project"),
        (99, "old"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), Some(1));
    // The move of the directory took the file away, not the later removal.
    log.remove(2, 1_100, PROJECT, "project.xml", FILE);
    log.remove(2, 1_100, 99, "old", PROJECT);
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), Some(1));
    // A new empty directory changes nothing.
    log.make_directory(3, 1_200, ORGANIZATION, "project", 41);
    assert_eq!(log.user(&gone(&[ORGANIZATION, 41], 900)), Some(1));
    // The file may have been removed from a directory that was moved here later.
    log.rename(4, 1_300, (99, "new"), (ORGANIZATION, "project"), 42, None);
    assert_eq!(log.user(&gone(&[ORGANIZATION, 42], 900)), None);
    // A move of the whole organization explains the missing file too.
    let mut log = Log::default();
    log.rename(5, 1_000, (ROOT, "org"), (99, "org"), ORGANIZATION, None);
    assert_eq!(log.user(&gone(&[], 900)), Some(5));
}

#[test]
fn a_file_that_was_removed_before_its_directory_moved_names_the_remover() {
    let mut log = Log::default();
    log.remove(1, 1_000, PROJECT, "project.xml", FILE);
    log.rename(
        2,
        1_010,
        (ORGANIZATION, "project"),
        (99, "old"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), Some(1));
}

#[test]
fn an_exchange_of_directories_names_who_exchanged_them() {
    let mut log = Log::default();
    let items = [
        "PARENT /a/ 99",
        "PARENT /org/ 30",
        "DELETE /org/project 40",
        "DELETE /a/new 44",
        "CREATE /a/new 40",
        "CREATE /org/project 44",
    ];
    log.call(6, 1_000, 316, 2, &items);
    assert_eq!(log.user(&gone(&[ORGANIZATION, 44], 900)), Some(6));
}

/// Asks about a project that was moved here from the directory `before`.
///
/// `from` has the existing directories on the old path, and `existing` those on the new path.
fn moved(from: &[u64], existing: &[u64], since_ms: i64) -> Question {
    let mut before = path(from);
    before.names[1] = Arc::from(b"before".as_slice());
    Question {
        path: path(existing),
        asked: Asked::Moved {
            node: node(FILE),
            since_ns: since_ms * 1_000_000,
            from: before,
        },
    }
}

#[test]
fn a_moved_project_names_the_last_mover() {
    let here = [ORGANIZATION, PROJECT];
    let mut log = Log::default();
    log.rename(
        1,
        1_000,
        (ORGANIZATION, "before"),
        (ORGANIZATION, "project"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&moved(&[ORGANIZATION], &here, 900)), Some(1));
    // The recorded state is later than the move.
    assert_eq!(log.user(&moved(&[ORGANIZATION], &here, 1_100)), None);
    // A later save of the file is not the move.
    log.create(2, 1_100, PROJECT, "project.xml", 51);
    log.write(2, 1_100, FILE);
    assert_eq!(log.user(&moved(&[ORGANIZATION], &here, 900)), Some(1));
    // The last recorded move of the project is to another place. So the record of the move to this
    // place is missing.
    let to = (ORGANIZATION, "third");
    log.rename(3, 1_200, (ORGANIZATION, "project"), to, PROJECT, None);
    assert_eq!(log.user(&moved(&[ORGANIZATION], &here, 900)), None);
    log.rename(4, 1_300, to, (ORGANIZATION, "project"), PROJECT, None);
    assert_eq!(log.user(&moved(&[ORGANIZATION], &here, 900)), Some(4));
}

#[test]
fn a_project_that_was_moved_by_file_names_who_moved_the_definition() {
    let mut log = Log::default();
    log.make_directory(1, 1_000, ORGANIZATION, "project", PROJECT);
    let (from, to) = ((41, "project.xml"), (PROJECT, "project.xml"));
    log.rename(2, 1_010, from, to, FILE, None);
    log.remove(3, 1_020, ORGANIZATION, "before", 41);
    let question = moved(&[ORGANIZATION], &[ORGANIZATION, PROJECT], 900);
    assert_eq!(log.user(&question), Some(2));
    // The directory was moved to this path without the file, and the record of the file is missing.
    let mut log = Log::default();
    let to = (ORGANIZATION, "project");
    log.rename(1, 1_000, (99, "empty"), to, PROJECT, None);
    assert_eq!(log.user(&question), None);
}

#[test]
fn a_project_that_was_copied_names_who_removed_the_original() {
    let mut log = Log::default();
    log.make_directory(1, 1_000, ORGANIZATION, "project", PROJECT);
    log.create(1, 1_010, PROJECT, "project.xml", 51);
    let question = moved(&[ORGANIZATION, 41], &[ORGANIZATION, PROJECT], 900);
    assert_eq!(log.user(&question), None);
    log.remove(2, 1_020, 41, "project.xml", FILE);
    assert_eq!(log.user(&question), Some(2));
    log.remove(3, 1_030, ORGANIZATION, "before", 41);
    let question = moved(&[ORGANIZATION], &[ORGANIZATION, PROJECT], 900);
    assert_eq!(log.user(&question), Some(2));
}

#[test]
fn two_directories_with_one_name_count_only_for_the_recorded_file() {
    let mut log = Log::default();
    let of = |inode: u64| {
        [
            "PARENT /cwd 99".to_owned(),
            format!("PARENT /cwd {PROJECT}"),
            format!("DELETE project.xml {inode}"),
            format!("CREATE project.xml {inode}"),
        ]
    };
    let other = of(51);
    log.call(1, 1_000, 316, 0, &other.each_ref().map(String::as_str));
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
    let own = of(FILE);
    log.call(2, 1_001, 316, 0, &own.each_ref().map(String::as_str));
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), Some(2));
}

#[test]
fn a_new_file_was_named_by_its_creator_or_by_who_renamed_it() {
    let mut log = Log::default();
    log.create(1, 1_000, PROJECT, ".tmp", FILE);
    assert_eq!(
        log.user(&appeared(1_000, 1)),
        None,
        "the rename is not on record yet"
    );
    log.rename(
        2,
        1_005,
        (PROJECT, ".tmp"),
        (PROJECT, "project.xml"),
        FILE,
        Some(49),
    );
    assert_eq!(log.user(&appeared(1_005, 3)), Some(2));
    // A later write explains only a later state.
    log.write(3, 1_020, FILE);
    assert_eq!(log.user(&appeared(1_005, 3)), Some(2));
    assert_eq!(log.user(&appeared(1_021, 3)), Some(3));
    // A later file with this name is another file.
    log.rename(
        4,
        1_030,
        (PROJECT, ".tmp"),
        (PROJECT, "project.xml"),
        52,
        Some(FILE),
    );
    assert_eq!(log.user(&appeared(1_005, 3)), Some(2));
}

#[test]
fn a_directory_that_was_moved_in_names_the_mover() {
    let mut log = Log::default();
    log.create(1, 1_000, PROJECT, "project.xml", FILE);
    log.make_directory(1, 1_000, 99, "staging", PROJECT);
    log.rename(1, 1_001, (99, "staging"), (99, "ready"), PROJECT, None);
    assert_eq!(
        log.user(&appeared(1_000, 1)),
        None,
        "its move to here is not on record yet"
    );
    log.rename(
        2,
        2_000,
        (99, "ready"),
        (ORGANIZATION, "project"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&appeared(1_000, 1)), Some(2));
    // The directory was made elsewhere, so it was moved here. The record of that move is missing.
    let mut made = Log::default();
    made.make_directory(1, 900, 99, "staging", PROJECT);
    made.create(1, 1_000, PROJECT, "project.xml", FILE);
    assert_eq!(made.user(&appeared(1_000, 1)), None);
    // The directory of the project existed before, so its move does not explain the new file.
    assert_eq!(log.user(&appeared(1_000, 3)), Some(1));
    // A file that was changed after the move may not have been in the moved directory.
    let mut log = Log::default();
    log.rename(
        2,
        2_000,
        (99, "ready"),
        (ORGANIZATION, "project"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&appeared(1_000, 1)), Some(2));
    assert_eq!(log.user(&appeared(3_000, 1)), None);
}

#[test]
fn a_rewritten_file_was_written_by_the_last_who_opened_it() {
    let mut log = Log::default();
    log.write(1, 1_000, FILE);
    assert_eq!(log.user(&rewritten(1_001, 500)), Some(1));
    // An open that explains the recorded state does not explain a later one.
    assert_eq!(log.user(&rewritten(3_000, 1_001)), None);
    log.write(2, 2_000, FILE);
    assert_eq!(log.user(&rewritten(2_001, 1_001)), Some(2));
    assert_eq!(
        log.user(&rewritten(1_001, 500)),
        Some(1),
        "the second open was later"
    );
    // chmod, an open for reading and a failed call write nothing.
    log.call(3, 2_500, 268, 0o600, &["NORMAL x 50"]);
    log.call(3, 2_500, 257, 0o100, &["NORMAL x 50"]);
    assert_eq!(log.user(&rewritten(2_600, 1_001)), Some(2));
    // System call 76 is truncate(2).
    log.call(4, 2_600, 76, 0, &["NORMAL x 50"]);
    assert_eq!(log.user(&rewritten(2_600, 1_001)), Some(4));
}

#[test]
fn a_loss_forgets_everything_and_doubts_moves_for_a_while() {
    let mut log = Log::default();
    log.remove(1, 1_000, PROJECT, "project.xml", FILE);
    log.memory.lost(1_500);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
    assert!(log.memory.is_empty());
    log.rename(
        2,
        2_000,
        (ORGANIZATION, "project"),
        (99, "old"),
        PROJECT,
        None,
    );
    assert_eq!(log.user(&gone(&[ORGANIZATION], 900)), None);
    log.remove(3, 2_000, PROJECT, "project.xml", FILE);
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), Some(3));
    log.rename(
        2,
        62_000,
        (ORGANIZATION, "project"),
        (99, "old"),
        PROJECT,
        None,
    );
    assert_eq!(
        log.user(&gone(&[ORGANIZATION], 61_900)),
        None,
        "removed before it was moved"
    );
}

#[test]
fn other_load_pushes_out_nothing_of_the_rule() {
    let mut log = Log::default();
    log.remove(1, 1_000, PROJECT, "project.xml", FILE);
    for n in 0..2 * OTHERS_MAX as u64 {
        let item = format!("NORMAL x {}", n + 1_000);
        log.keyed(9, 1_001, 257, 1, &[&item], "\"other\"");
        assert!(log.memory.len() <= OTHERS_MAX + 1);
    }
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), Some(1));
    // A call without the key is evidence too.
    log.keyed(
        9,
        1_002,
        257,
        0o1101,
        &["PARENT /p/ 40", "CREATE project.xml 53"],
        "(null)",
    );
    assert_eq!(log.user(&gone(&[ORGANIZATION, PROJECT], 900)), None);
}
