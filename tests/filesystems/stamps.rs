//! Metadata that does not change although the content does, and the other way round.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use super::common::{
    Endpoint, Home, Patient, Settings, skip, sorted, succeeds, wait_exit, wait_until, write, xml,
};
use super::mounts::{Mounted, exfat, in_namespaces};

/// Maps a file, changes a letter, and changes another one when it is told to. The kernel changes the
/// times of a page at its first write, and again only when it has written the page to the disk.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
at = mapped.find(b'one')
mapped[at:at + 3] = b'two'
print('changed', flush=True)
sys.stdin.readline()
mapped[at:at + 3] = b'six'
mapped.close()
";

#[test]
fn a_memory_mapped_write_that_changes_no_time_is_found_when_the_file_is_closed() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    let path = "sales/orders/published/project.xml";
    home.write(path, &xml("Orders", "e-1", "one"));
    let daemon = home.start();
    let mut mapper = Command::new("python3")
        .args(["-c", MAPPER])
        .arg(home.at(path))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(Patient::of(mapper.stdout.take().unwrap()))
        .read_line(&mut line)
        .unwrap();
    // Nothing reports a mapped write. Another change has the project observed, once the times are so
    // old that they prove something.
    wait_until_old(&home.at(path));
    home.write("sales/orders/snapshots/v1.xml", &xml("Orders", "e-1", "v1"));
    // In one observation or in two.
    assert_eq!(
        sorted(endpoint.take_events(2)),
        ["project-publish", "snapshot-create"]
    );
    mapper.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(wait_exit(&mut mapper).success());
    let came = endpoint.wait_for(1);
    assert_eq!(came[0].event, "project-publish");
    assert_eq!(*came[0].payload, *xml("Orders", "e-1", "six").as_bytes());
    daemon.fence();
    assert_eq!(endpoint.n(), 1);
}

#[test]
fn a_copy_with_equal_times_is_found_without_a_change_time() {
    let test = "stamps::a_copy_with_equal_times_is_found_without_a_change_time";
    in_namespaces(test, &["mkfs.exfat", "mount.exfat-fuse"], || {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint));
        let _mounted = exfat(&home.beside("disk"), &home.at(""));
        home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
        let path = home.at("sales/orders/published/project.xml");
        home.write(
            "sales/orders/published/project.xml",
            &xml("Orders", "e-1", "one"),
        );
        let other = home.beside("other.xml");
        std::fs::write(&other, xml("Orders", "e-1", "two")).unwrap();
        let old = ["--no-dereference", "--date=2026-01-01 00:00:00"];
        for path in [&other, &path] {
            assert!(succeeds(
                "touch",
                &[&old[..], &[&path.to_string_lossy()]].concat()
            ));
        }
        let daemon = home.start();
        let paths = [&other, &path].map(|path| path.to_string_lossy());
        assert!(succeeds("cp", &["-p", &paths[0], &paths[1]]));
        let came = endpoint.wait_for(1);
        assert_eq!(came[0].event, "project-publish");
        daemon.signal(Signal::USR1);
        daemon.wait_message("full scan finished", 2);
        assert_eq!(endpoint.n(), 1);
    });
}

#[test]
fn changing_inode_numbers_cost_neither_reading_nor_writing() {
    let test = "stamps::changing_inode_numbers_cost_neither_reading_nor_writing";
    let tools = ["/usr/bin/python3"];
    if !succeeds(tools[0], &["-c", "import fusepy"]) {
        return skip(test, "needs the Python module fusepy");
    }
    in_namespaces(test, &tools, || {
        let counted = [5, 20].map(with_changing_inode_numbers);
        // The first file that is read again teaches it.
        assert_eq!(counted, [1, 1]);
    });
}

/// The number of files that are read again after all inode numbers have changed, three times.
fn with_changing_inode_numbers(projects: usize) -> usize {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).repository("poll_interval: 1h");
    let home = Home::new(&settings);
    for number in 0..projects {
        let content = xml("P", &format!("e-{number}"), "one");
        let path = home.beside(&format!("backing/sales/p{number}/project.xml"));
        write(&path, &content);
    }
    let (generation, opened) = (home.beside("generation"), home.beside("opened"));
    std::fs::write(&generation, "1").unwrap();
    let last = home.beside(&format!("backing/sales/p{}/project.xml", projects - 1));
    wait_until_old(&last);
    let mut server = Command::new("/usr/bin/python3");
    server
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/filesystems/renumbering.py"
        ))
        .args([home.beside("backing"), home.at(""), generation.clone()])
        .arg(&opened);
    let _mounted = Mounted::by_server(server, &home.at(""));
    let n_opened = || std::fs::read_to_string(&opened).map_or(0, |text| text.lines().count());
    let daemon = home.start();
    assert_eq!(n_opened(), projects);
    let store = rusqlite::Connection::open(home.database()).unwrap();
    let n_commits = || -> i64 {
        let version = store.pragma_query_value(None, "data_version", |row| row.get(0));
        version.unwrap()
    };
    let before = n_commits();
    for number in 2..=4 {
        std::fs::write(&generation, number.to_string()).unwrap();
        daemon.signal(Signal::USR1);
        daemon.wait_message("full scan finished", number);
    }
    assert_eq!(n_commits(), before, "the scans wrote");
    assert_eq!(endpoint.n(), 0);
    n_opened() - projects
}

/// Waits until the times of a file prove something.
fn wait_until_old(path: &Path) {
    wait_until("old times", || {
        let modified = path.metadata().unwrap().modified().unwrap();
        let age = SystemTime::now().duration_since(modified).ok()?;
        (age > Duration::from_millis(2_500)).then_some(())
    });
}
