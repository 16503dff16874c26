//! A webhook that is disabled in one process is left to others.

use super::common::{Endpoint, Relay, wait_within};
use super::fleet::{Fleet, PATIENCE, launch, senders};

#[test]
fn a_webhook_that_is_disabled_in_one_process_is_left_to_others() {
    let Some(fleet) = Fleet::new("a_webhook_that_is_disabled_in_one_process_is_left_to_others")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let more = ["rate: 100/s"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let first = launch(&homes[0]);
    endpoint.wait_for(1);
    let config = std::fs::read_to_string(homes[0].config()).unwrap();
    let disabled = config.replace(more[0], "enabled: false");
    std::fs::write(homes[0].config(), disabled).unwrap();
    assert!(first.reload());
    let second = launch(&homes[1]);
    fleet.record(1..4, 4);
    wait_within(PATIENCE, "the other sender", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(first.terminate().success());
    assert!(second.terminate().success());
    let all = endpoint.all();
    assert_eq!(senders(&all[..1]), ["first".to_owned()].into());
    assert_eq!(senders(&all[1..]), ["second".to_owned()].into());
}

/// The process cannot say so at once, because the database is away.
#[test]
fn a_webhook_that_is_disabled_during_an_outage_is_left_to_others_after_it() {
    let Some(fleet) =
        Fleet::new("a_webhook_that_is_disabled_during_an_outage_is_left_to_others_after_it")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let more = ["rate: 100/s"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let relay = Relay::start(fleet.server.port);
    let config = std::fs::read_to_string(homes[0].config()).unwrap();
    let config = relay.through(&config, &fleet.server);
    std::fs::write(homes[0].config(), &config).unwrap();
    let first = launch(&homes[0]);
    endpoint.wait_for(1);
    wait_within(PATIENCE, "the result", || {
        (fleet.n_pending() == 0).then_some(())
    });
    relay.close();
    let disabled = config.replace(more[0], "enabled: false");
    std::fs::write(homes[0].config(), disabled).unwrap();
    assert!(first.reload());
    // One in each second.
    let n_before = first.n_messages("cannot renew the lease of the sender");
    first.wait_message("cannot renew the lease of the sender", n_before + 6);
    relay.open();
    let second = launch(&homes[1]);
    fleet.record(1..4, 4);
    wait_within(PATIENCE, "the other sender", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(first.terminate().success());
    assert!(second.terminate().success());
    assert_eq!(senders(&endpoint.all()[1..]), ["second".to_owned()].into());
}
