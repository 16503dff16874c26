use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::layout::Layout;

/// Progress shows that the engine is alive, so a large project does not look like a hang.
#[test]
fn each_file_that_is_read_is_progress() {
    for n in [4, 16] {
        let temporary = tempfile::tempdir().unwrap();
        let snapshots = temporary.path().join("o/p/snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        for number in 0..n {
            fs::write(snapshots.join(format!("s{number}.xml")), "<project/>").unwrap();
        }
        let layout = Layout::new(
            &["{organization}/{project}/project.xml".to_owned()],
            &[],
            &["{organization}/{project}/snapshots/{versionTag}.xml".to_owned()],
        )
        .unwrap();
        let counted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&counted);
        let mut observer = Observer::new(layout, 1 << 20).with_progress(move || {
            counter.fetch_add(1, Relaxed);
        });
        let seen = observer.observe(
            &Root::open(temporary.path()).unwrap(),
            &ProjectKey::new("o", "p"),
            &Recorded::default(),
            &Reported::default(),
            &mut Contents::default(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(seen.observed.files.len(), n);
        assert_eq!(counted.load(Relaxed), n);
    }
}
