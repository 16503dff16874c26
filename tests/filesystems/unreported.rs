//! Changes that the system does not report, which the next full scan finds, and one that it reports.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use rustix::process::Signal;

use super::common::{Daemon, Endpoint, Home, Run as _, Settings, skip, write, xml};
use super::mounts::{Mounted, in_namespaces};

const PATH: &str = "sales/orders/published/project.xml";

/// A repository with a published project.
fn published(endpoint: &Endpoint) -> Home {
    let home = Home::new(&Settings::all_to(endpoint));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    home.write(PATH, &xml("Orders", "e-1", "one"));
    home
}

/// Has everything scanned, and expects the publish of this content.
fn a_scan_finds(daemon: &Daemon<'_>, endpoint: &Endpoint, content: &str) {
    daemon.signal(Signal::USR1);
    let came = endpoint.wait_for(1);
    assert_eq!(came[0].event, "project-publish");
    assert_eq!(*came[0].payload, *content.as_bytes());
    daemon.fence();
    assert_eq!(endpoint.n(), 1);
}

#[test]
fn a_full_scan_finds_what_a_writer_wrote_that_never_closes() {
    let endpoint = Endpoint::new();
    let home = published(&endpoint);
    let daemon = home.start();
    let content = xml("Orders", "e-1", "two");
    let mut file = OpenOptions::new().write(true).open(home.at(PATH)).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    a_scan_finds(&daemon, &endpoint, &content);
    drop(file);
    daemon.fence();
    assert_eq!(endpoint.n(), 1, "the close tells nothing new");
}

#[test]
fn a_full_scan_finds_a_change_through_a_link_elsewhere() {
    let endpoint = Endpoint::new();
    let home = published(&endpoint);
    let link = home.beside("link.xml");
    fs::hard_link(home.at(PATH), &link).unwrap();
    let daemon = home.start();
    let content = xml("Orders", "e-1", "two");
    fs::write(&link, &content).unwrap();
    a_scan_finds(&daemon, &endpoint, &content);
}

#[test]
fn a_full_scan_finds_a_truncated_file() {
    let endpoint = Endpoint::new();
    let home = published(&endpoint);
    let content = xml("Orders", "e-1", "one");
    home.write(PATH, &format!("{content}\n\n"));
    let daemon = home.start();
    let length = i64::try_from(content.len()).unwrap();
    // By the path; closing a file that was open for writing would be reported.
    let status = Command::new("python3")
        .args([
            "-c",
            "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))",
        ])
        .arg(home.at(PATH))
        .arg(length.to_string())
        .ended();
    assert!(status.unwrap().success());
    a_scan_finds(&daemon, &endpoint, &content);
}

/// Without `redirect_dir` the program `mv` copies the directory and removes it, which is no move.
#[test]
fn a_renamed_directory_of_the_lower_layer_is_a_move() {
    let test = "unreported::a_renamed_directory_of_the_lower_layer_is_a_move";
    in_namespaces(test, &[], || {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint));
        // An upper layer cannot be on every file system.
        let layers = home.beside("layers");
        let Some(_layers) = Mounted::by_mount(&["-t", "tmpfs", "layers"], &layers) else {
            return skip(test, "cannot mount tmpfs");
        };
        let definition = xml("Orders", "e-1", "one");
        write(&layers.join("lower/sales/orders/project.xml"), &definition);
        write(
            &layers.join("lower/sales/orders/snapshots/v1.xml"),
            &definition,
        );
        for name in ["upper", "work"] {
            fs::create_dir(layers.join(name)).unwrap();
        }
        let [lower, upper, work] =
            ["lower", "upper", "work"].map(|name| layers.join(name).display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=on");
        let mount = ["-t", "overlay", "-o", &options, "overlay"];
        let Some(_mounted) = Mounted::by_mount(&mount, &home.at("")) else {
            return skip(test, "cannot mount overlay with redirect_dir=on");
        };
        let daemon = home.start();
        home.rename("sales/orders", "sales/renamed");
        daemon.fence();
        home.write("sales/renamed/snapshots/v2.xml", &xml("Orders", "e-1", "2"));
        endpoint.wait_for(1);
        daemon.fence();
        assert_eq!(daemon.events(), ["Snapshot Create sales/renamed"]);
    });
}
