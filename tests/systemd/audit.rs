//! The drop-in for audit records. The kernel sends none to a container, so tests/actor reads them.

use crate::can_boot;
use crate::common::wait_until;
use crate::root;
use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};

#[test]
fn with_the_drop_in_for_audit_it_has_one_capability_and_netlink() {
    if !can_boot("with_the_drop_in_for_audit") {
        return;
    }
    let text = std::fs::read_to_string(root().join("systemd/examples/audit.conf")).unwrap();
    let container = installed(|stage| {
        drop_in(stage, "audit", &text);
        // The sandbox of the service allows what reading the records needs.
        let probe = "[Service]\nExecStartPre=python3 -c 'import socket; socket.socket(16, 3, 0)'\n";
        drop_in(stage, "probe", probe);
    });
    let username = "username: [audit, \"value:nobody knows\"]\n";
    container.configure(&format!("{}{username}", config(9000, "")));
    let receiver = container.receive(9000, "");
    container.run(&["systemctl", "start", UNIT]);
    let exposure = ["systemd-analyze", "security", "--no-pager"];
    container.run(&[&exposure[..], &["--threshold=16", UNIT]].concat());

    // An ordinary user with CAP_AUDIT_READ, number 37, and no other capability.
    let status = format!("/proc/{}/status", container.property(UNIT, "MainPID"));
    let status = container.run(&["cat", &status]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = format!("{set}:\t{:016x}", 1_u64 << 37);
        assert!(status.contains(&line), "{line} in {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");

    // Here it says once that there are no records, and goes on with the next source.
    let said = container.journal(UNIT);
    assert_eq!(
        said.matches("cannot work in a container").count(),
        1,
        "{said}"
    );
    container.import(REPOSITORY);
    let imported = wait_until("an import", || container.received(&receiver).pop());
    assert_eq!(imported["parameters"]["username"], "nobody knows");
}
