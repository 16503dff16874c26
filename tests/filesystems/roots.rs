//! The identity of the root.

use std::fs;
use std::path::{Path, PathBuf};

use super::common::{Endpoint, Home, Settings, skip, sorted, succeeds, xml};
use super::mounts::{Mounted, image, in_namespaces};

/// The same file system, mounted from another loop device after the daemon has ended.
macro_rules! the_same_root_on_another_device {
    ($($kind:ident),+) => {
        mod the_same_root_on_another_device {
            $(#[test] fn $kind() { super::on_another_device(stringify!($kind)); })+
        }
    };
}

the_same_root_on_another_device!(ext4, xfs, btrfs);

fn on_another_device(kind: &str) {
    let test = format!("roots::the_same_root_on_another_device::{kind}");
    let make = format!("mkfs.{kind}");
    in_namespaces(&test, &[&make], || {
        compare_on_another_device(&test, &make, kind);
    });
}

fn compare_on_another_device(test: &str, make: &str, kind: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let disks: Vec<PathBuf> = ["disk", "other"].map(|name| home.beside(name)).to_vec();
    for disk in &disks {
        // The least that mkfs.xfs accepts.
        image(disk, 304);
        assert!(succeeds(make, &["-q", &disk.to_string_lossy()]), "{make}");
    }
    let mount = |disk: &PathBuf, at: &Path| {
        Mounted::by_mount(&["-t", kind, "-o", "loop", &disk.to_string_lossy()], at)
    };
    let Some(mounted) = mount(&disks[0], &home.at("")) else {
        return skip(test, &format!("cannot mount {kind}"));
    };
    let device = |home: &Home| rustix::fs::stat(home.at("")).unwrap().st_dev;
    let before = device(&home);
    for number in 1..=5 {
        let path = format!("sales/p{number}/project.xml");
        home.write(&path, &xml("P", &format!("e-{number}"), "one"));
    }
    assert!(home.start().terminate().success());
    mounted.unmount();
    // Another disk takes the loop device.
    let _other = mount(&disks[1], &home.beside("elsewhere")).unwrap();
    let _mounted = mount(&disks[0], &home.at("")).unwrap();
    if kind != "btrfs" {
        assert_ne!(device(&home), before);
    }
    // Fewer are left than another root needs to be compared.
    for number in 1..=3 {
        fs::remove_dir_all(home.at(&format!("sales/p{number}"))).unwrap();
    }
    let daemon = home.start();
    endpoint.wait_for(3);
    daemon.fence();
    let deleted = ["p1", "p2", "p3"].map(|project| format!("Project Delete sales/{project}"));
    assert_eq!(sorted(daemon.events()), deleted);
}
