use crate::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use crate::standing;

/// Otherwise the delivery would be retried for days, and would count against the endpoint.
#[test]
fn a_name_that_is_too_long_for_the_format_is_dead_at_once() {
    for (format, what) in [
        ("xml", "the URL"),
        ("cloudevents", "the header ce-projectname"),
    ] {
        let endpoint = Endpoint::new();
        let webhook = Webhook::new("all", &endpoint.url())
            .events("[project-import-any]")
            .with(&format!("format: {format}"));
        let home = Home::new(&Settings::of([webhook]));
        let daemon = home.start();
        for length in [2_000, 8_001, 30_000] {
            let name = "n".repeat(length);
            home.write(&format!("sales/p{length}/project.xml"), &xml(&name, "", ""));
        }
        daemon.wait_message("delivered: ", 1);
        daemon.wait_message("dead after the last attempt: not sent: ", 2);
        daemon.wait_log("what to do", |entry| {
            let text = entry.message();
            text.contains(what) && text.contains("shorten the names")
        });
        assert_eq!(endpoint.n(), 1, "{format}");
        // The log has the outcome before it is committed.
        wait_until("two dead deliveries", || {
            (standing(&home, "all")["dead"] == 2).then_some(())
        });
        assert_eq!(daemon.n_messages("the endpoint seems to be down"), 0);
    }
}
