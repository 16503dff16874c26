use crate::common::{Endpoint, Home, Settings, Webhook, wait_until};
use crate::{define, project, reply, snapshot, standing};

const POISON: [&str; 3] = ["p1", "p2", "p3"];

/// The endpoint refuses three projects and accepts all others. If it counted as down, the others
/// would wait for the probes, which are an hour apart.
#[test]
fn projects_that_always_fail_hold_up_no_others() {
    let endpoint = Endpoint::answering(|one| {
        reply(if POISON.contains(&&*project(one)) {
            500
        } else {
            204
        })
    });
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[snapshot-create]")
        .schedule("[0s, 50ms, 50ms, 1h, 1h]");
    let home = Home::new(&Settings::of([webhook]));
    for project in POISON.into_iter().chain(["good", "late"]) {
        define(&home, project);
    }
    let daemon = home.start();
    for project in POISON {
        snapshot(&home, project, "s1");
    }
    daemon.wait_message("the endpoint seems to be down", 1);
    // The probes of these projects are used up.
    wait_until("the probes", || (endpoint.n() >= 5).then_some(()));
    snapshot(&home, "good", "s1");
    daemon.wait_message("delivered: ", 1);
    daemon.wait_message("the endpoint is up again", 1);
    // It is not down again, though the three go on failing.
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    wait_until("the next failures", || (endpoint.n() >= 12).then_some(()));
    snapshot(&home, "late", "s1");
    daemon.wait_message("delivered: ", 2);
    assert_eq!(daemon.n_messages("the endpoint seems to be down"), 1);
    assert_eq!(standing(&home, "all")["pending"], POISON.len());
}
