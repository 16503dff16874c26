//! Commands, and configurations on a disk that hangs.

use std::os::unix::fs::symlink;

use super::super::common::{Endpoint, Home, Settings, Webhook, write, xml};
use super::super::{DEFINITION, put, roots, start, two};
use super::printed;
use super::served::Served;

#[test]
fn a_configuration_whose_disk_hangs_is_reported() {
    let test = "hung::commands::a_configuration_whose_disk_hangs_is_reported";
    let all = Endpoint::new();
    let webhook = Webhook::new("all", &all.url()).with("secret: { file: ./disk/secret }");
    let home = Home::new(&two([webhook]));
    roots(&home, &["models", "finance"]);
    let Some(disk) = Served::new(&home, "disk", test) else {
        return;
    };
    let secret = "a secret of the webhook";
    write(&home.beside("disk.backing/secret"), secret);
    std::fs::copy(home.config(), home.beside("disk.backing/config.yaml")).unwrap();
    let daemon = start(&home);

    disk.hang();
    assert!(!daemon.reload());
    let silent = "disk/secret cannot be read: it does not answer";
    daemon.wait_message(silent, 1);
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);
    assert!(daemon.terminate().success());

    // The disk may answer later, so the service manager has to start it again.
    let (status, errors) = printed(&home.config(), &["run"]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("webhooks[0].secret"), "{errors}");
    assert!(errors.contains(silent), "{errors}");
    for command in ["run", "status", "check", "reload"] {
        let (status, errors) = printed(&home.beside("disk/config.yaml"), &[command]);
        assert_eq!(status, Some(1), "{command}: {errors}");
        let silent = "disk/config.yaml: the configuration cannot be read: it does not answer";
        assert!(errors.contains(silent), "{command}: {errors}");
    }
}

#[test]
fn a_scan_of_a_repository_that_hangs_ends() {
    let test = "hung::commands::a_scan_of_a_repository_that_hangs_ends";
    let home = Home::new(&two([]));
    roots(&home, &["models"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    finance.hang();
    let (status, errors) = printed(&home.config(), &["scan"]);
    assert_eq!(status, Some(1), "{errors}");
    let silent = format!("{} does not answer", finance.at.display());
    assert!(errors.contains(&silent), "{errors}");
    let (status, printed) = printed(&home.config(), &["check"]);
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("cannot be read now"), "{printed}");
}

#[test]
fn repositories_that_overlap_are_found_although_their_disk_hangs() {
    let test = "hung::commands::repositories_that_overlap_are_found_although_their_disk_hangs";
    let home = Home::new(
        &Settings::of([])
            .and_repository("{ path: ./finance, name: finance }")
            .and_repository("{ path: ./link/below, name: below }"),
    );
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    symlink("finance/sales", home.beside("link")).unwrap();
    finance.hang();
    let (status, printed) = printed(&home.config(), &["check"]);
    assert_eq!(status, Some(78), "{printed}");
    assert!(printed.contains("overlap"), "{printed}");
}
