//! Metadata that does not change although the content does, and the other way round.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::common::{Endpoint, Home, Settings, wait_until, xml};

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
    BufReader::new(mapper.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    // Nothing reports a mapped write. Another change has the project observed, once the times are so
    // old that they prove something.
    wait_until("old times", || {
        let modified = home.at(path).metadata().unwrap().modified().unwrap();
        let age = SystemTime::now().duration_since(modified).ok()?;
        (age > Duration::from_millis(2_500)).then_some(())
    });
    home.write("sales/orders/snapshots/v1.xml", &xml("Orders", "e-1", "v1"));
    assert_eq!(
        endpoint.take_events(2),
        ["snapshot-create", "project-publish"]
    );
    mapper.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(mapper.wait().unwrap().success());
    let came = endpoint.wait_for(1);
    assert_eq!(came[0].event, "project-publish");
    assert_eq!(*came[0].payload, *xml("Orders", "e-1", "six").as_bytes());
    daemon.fence();
    assert_eq!(endpoint.n(), 1);
}
