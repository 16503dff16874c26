//! Faults that systemd handles: a killed process, and one that hangs.

use crate::common::{PATIENCE, wait_until, wait_within};
use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};
use crate::{can_boot, skip};

#[test]
fn after_a_kill_it_is_started_again_and_nothing_is_lost() {
    if !can_boot("after_a_kill_it_is_started_again_and_nothing_is_lost") {
        return;
    }
    let container = installed(|stage| {
        drop_in(stage, "quick", "[Service]\nRestartSec=10s\n");
    });
    // Nobody listens yet, so deliveries stay pending.
    container.configure(&config(9000, ""));
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "before");
    wait_until("it is recorded", || {
        let events = container.run(&["project-webhooks", "events"]);
        events.contains("Snapshot Create").then_some(())
    });
    container.run(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=KILL",
        UNIT,
    ]);
    wait_until("it is down", || {
        (container.property(UNIT, "ActiveState") == "activating").then_some(())
    });
    container.snapshot(REPOSITORY, "meanwhile");
    let receiver = container.receive(9000, "");
    container.wait_property(UNIT, "NRestarts", "1");
    container.wait_property(UNIT, "ActiveState", "active");
    container.snapshot(REPOSITORY, "after");
    let mut tags = container.wait_snapshots(&receiver, 3);
    tags.sort();
    assert_eq!(tags, ["after", "before", "meanwhile"]);
}

/// Stops one thread of the service and holds it: `$1` is its name.
const FREEZE: &str = r#"
main=$(systemctl show --value --property MainPID project-webhooks)
for task in /proc/$main/task/*; do
    if [ "$(cat "$task/comm")" = "$1" ]; then
        exec systemd-run --quiet --unit freezer python3 -c "
import ctypes, signal
PTRACE_ATTACH = 16
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(PTRACE_ATTACH, ${task##*/}, None, None) == 0
signal.pause()
"
    fi
done
exit 1
"#;

#[test]
fn a_hung_loop_is_not_hidden_by_running_threads() {
    const TEST: &str = "a_hung_loop_is_not_hidden_by_running_threads";
    if !can_boot(TEST) {
        return;
    }
    let container = installed(|stage| {
        drop_in(
            stage,
            "quick",
            "[Service]\nWatchdogSec=10s\nRestartSec=100ms\n",
        );
    });
    if container.try_run(&["python3", "--version"]).0 != Some(0) {
        return skip(TEST, "no python3 in the container");
    }
    container.configure(&config(9000, ""));
    container.run(&["systemctl", "start", UNIT]);
    container.run(&["sh", "-euc", FREEZE, "sh", "engine"]);
    // The loop may stand still for half a minute: reading a large file of a slow disk takes time.
    wait_within(2 * PATIENCE, "the watchdog", || {
        let log = container.journal(UNIT);
        (log.contains("the engine has not responded") && log.contains("Watchdog timeout"))
            .then_some(())
    });
    // A held thread also delays the end of the process.
    container.run(&["systemctl", "stop", "freezer"]);
    container.wait_property(UNIT, "NRestarts", "1");
    container.wait_property(UNIT, "ActiveState", "active");
}

#[test]
fn a_hang_ends_in_a_restart_by_the_watchdog() {
    if !can_boot("a_hang_ends_in_a_restart_by_the_watchdog") {
        return;
    }
    let container = installed(|stage| {
        drop_in(
            stage,
            "quick",
            "[Service]\nWatchdogSec=10s\nRestartSec=100ms\n",
        );
    });
    container.configure(&config(9000, ""));
    let receiver = container.receive(9000, "");
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.run(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=STOP",
        UNIT,
    ]);
    container.wait_property(UNIT, "NRestarts", "1");
    container.wait_property(UNIT, "ActiveState", "active");
    let log = container.journal(UNIT);
    assert!(log.contains("Watchdog timeout"), "{log}");
    container.snapshot(REPOSITORY, "after");
    container.wait_snapshots(&receiver, 1);
}
