//! Held removals and another layout.

use crate::common::{Daemon, Endpoint, Home};
use crate::{names, projects, settings, vanish, wait_held, wait_not_held};

const OTHER_LAYOUT: &str =
    "layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }";

#[test]
fn a_reload_with_another_layout_is_refused_while_removals_are_held() {
    for (n, n_projects, cause) in [(12, 12, "all"), (12, 20, "more-than-half")] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "auto").repository("mass_delete_after: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n_projects));
        let daemon = home.start();
        vanish(&home, &daemon, names(n));
        wait_held(&home, n, cause);
        home.reconfigure(&settings.clone().repository(OTHER_LAYOUT));
        assert!(!daemon.reload(), "{cause}");
        daemon.wait_message("or run `project-webhooks accept`, and then reload", 1);
        wait_held(&home, n, cause);
        // Nothing changed, so the deletes are sent once they are accepted. Then the layout may change.
        assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        endpoint.wait_for(2 * n);
        wait_not_held(&home);
        assert!(daemon.reload(), "{cause}");
        daemon.wait_message("existing projects are recorded without events", 1);
        assert_eq!(endpoint.n(), 2 * n);
    }
}

#[test]
fn a_start_with_another_layout_is_refused_while_removals_are_held() {
    for (n, n_projects, cause) in [(3, 3, "all"), (12, 20, "more-than-half")] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "auto").repository("mass_delete_after: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n_projects));
        let daemon = home.start();
        vanish(&home, &daemon, names(n));
        wait_held(&home, n, cause);
        daemon.terminate();
        home.configure(&settings.clone().repository(OTHER_LAYOUT));
        let mut daemon = Daemon::launch(&home, Daemon::command(&home));
        assert_eq!(daemon.wait_exit().code(), Some(78), "{cause}");
        assert_eq!(daemon.n_messages("or run `project-webhooks accept`"), 1);
        // Nothing is lost.
        home.configure(&settings);
        let daemon = home.start();
        wait_held(&home, n, cause);
        assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        endpoint.wait_for(2 * n);
        daemon.fence();
        assert_eq!(endpoint.n(), 2 * n);
    }
}
