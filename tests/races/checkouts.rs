//! Tools that replace many files: Git and rsync.

use std::time::{Duration, Instant};

use super::{home_with_projects, run};
use crate::common::{Endpoint, Settings, in_time, on_both_backends, sorted, xml};

on_both_backends!(
    a_checkout_of_another_branch_and_back_is_no_event,
    the_rest_of_a_checkout_that_is_taken_back_is_no_event,
    an_rsync_that_deletes_before_is_no_event,
);

fn a_checkout_of_another_branch_and_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("5s"), 20);
        let root = home.at("");
        run(
            &root,
            "git init -q -b main . && git config user.email a@example.com && git config user.name a \
             && git config gc.auto 0 && git add . && git commit -qm one \
             && git checkout -qb other && sed -i s/one/another/ sales/*/project.xml \
             && git mv sales/p5 sales/p55 && git mv sales/p6 sales/p66 \
             && sed -i s/another/moved/ sales/p66/project.xml \
             && git rm -rqf sales/p3 sales/p4 && git add . && git commit -qm two \
             && git checkout -q main",
        );
        let daemon = home.start();
        for _ in 0..3 {
            let began = Instant::now();
            run(&root, "git checkout -q other; git checkout -q main");
            if began.elapsed() > Duration::from_secs(4) {
                return false;
            }
        }
        run(
            &root,
            "git stash -q; git reset -q --hard main; touch sales/p1/project.xml; git status >/dev/null",
        );
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        assert_eq!(endpoint.n(), 0);
        // On the other branch two projects are gone.
        run(&root, "git checkout -q other");
        endpoint.wait_for(4);
        daemon.fence();
        assert_eq!(
            sorted(daemon.events()),
            [
                "Project Delete and Unpublish sales/p3",
                "Project Delete and Unpublish sales/p4",
                "Project Delete sales/p3",
                "Project Delete sales/p4",
            ]
        );
        true
    });
}

fn the_rest_of_a_checkout_that_is_taken_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("3s"), 1);
        let daemon = home.start();
        // A checkout and back may leave copies whose definition was removed first.
        let began = Instant::now();
        for (path, body) in [
            ("snapshots/s1.xml", "s1"),
            ("published/v1/project.xml", "v1"),
        ] {
            home.write(&format!("sales/p55/{path}"), &xml("P0", "e-0", body));
        }
        // Once a later project is imported, they were observed.
        home.write("sales/p56/project.xml", &xml("P56", "e-56", ""));
        let imports = ["Project Import sales/p56", "Project Import - Any sales/p56"];
        endpoint.wait_for(imports.len());
        home.remove_all("sales/p55");
        if began.elapsed() > Duration::from_millis(2_500) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), imports);
        // A copy that stays causes an event after the settle time.
        home.write("sales/p55/snapshots/s1.xml", &xml("P0", "e-0", "s1"));
        endpoint.wait_for(imports.len() + 1);
        daemon.fence();
        assert_eq!(daemon.events()[2..], ["Snapshot Create sales/p55"]);
        true
    });
}

fn an_rsync_that_deletes_before_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("3s"), 20);
        run(home.path(), "cp -a repository source");
        let daemon = home.start();
        run(
            home.path(),
            "sed -i s/one/two/ source/sales/*/project.xml; rsync -a --delete-before source/ repository/; \
             sed -i s/two/three/ source/sales/*/project.xml; rsync -a --delete-before --inplace source/ repository/; \
             touch source/sales/*/project.xml source/sales/*/*/*.xml; rsync -a --delete-before source/ repository/; \
             rsync -a --delete-before --ignore-times --whole-file source/ repository/",
        );
        // One that removes everything and brings it back.
        let began = Instant::now();
        run(
            home.path(),
            "mkdir empty; rsync -a --delete-before empty/ repository/; rsync -a --delete-before source/ repository/",
        );
        if began.elapsed() > Duration::from_millis(2_500) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        assert_eq!(endpoint.n(), 0);
        true
    });
}
