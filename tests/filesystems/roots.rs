//! The identity of the root.

use std::fs;

use super::common::{Endpoint, Home, Settings, skip, sorted, succeeds, xml};
use super::mounts::{LoopDevice, Mounted, image, in_namespaces};

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
    let disk = home.beside("disk");
    // The least that mkfs.xfs accepts.
    image(&disk, 304);
    assert!(succeeds(make, &["-q", &disk.to_string_lossy()]), "{make}");
    let [one, other] = [(); 2].map(|()| LoopDevice::of(&disk));
    let Some(mounted) = Mounted::by_mount(&["-t", kind, &one.0], &home.at("")) else {
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
    drop(one);
    let _mounted = Mounted::by_mount(&["-t", kind, &other.0], &home.at("")).unwrap();
    // Btrfs has device numbers that belong to no disk.
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
