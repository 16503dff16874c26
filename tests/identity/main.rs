//! Tests the identity of projects with the real binary: one engineId in several directories, and ids
//! that a project keeps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

// Random operations on projects with all kinds of ids, compared with a model.
mod random;

use std::fs;
use std::path::Path;

use common::{Daemon, Endpoint, Home, Settings, Webhook, xml};
use http::StatusCode;
use project_webhooks::receiver::{Received, Reply};

/// A test's daemon with its repository and its endpoint.
struct Watched<'a> {
    home: &'a Home,
    daemon: Daemon<'a>,
    endpoint: &'a Endpoint,
}

impl Watched<'_> {
    /// Asserts that exactly these callbacks came since the last call, in this order. Each is the
    /// event, the organization and the project id.
    fn expect(&self, expected: &[(&str, &str, &str)]) {
        if !expected.is_empty() {
            self.endpoint.wait_for(expected.len());
        }
        self.daemon.fence();
        let came = self.endpoint.take();
        let came: Vec<_> = came.iter().map(summary).collect();
        assert_eq!(came, expected);
    }
}

fn summary(one: &Received) -> (&str, &str, &str) {
    (
        one.event.as_str(),
        one.parameter("organizationName").unwrap_or_default(),
        one.parameter("projectId").unwrap_or_default(),
    )
}

/// Runs a test with a home that holds these files before the daemon starts.
fn watched(before: &[(&str, &str)], test: impl FnOnce(&Watched<'_>)) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    for (path, content) in before {
        home.write(path, content);
    }
    let daemon = home.start();
    test(&Watched {
        home: &home,
        daemon,
        endpoint: &endpoint,
    });
}

fn import<'a>(organization: &'a str, id: &'a str) -> [(&'static str, &'a str, &'a str); 2] {
    [
        ("project-import", organization, id),
        ("project-import-any", organization, id),
    ]
}

#[test]
fn engine_ids_that_differ_in_case_are_one() {
    let definition = "sales/orders/project.xml";
    let (lower, upper) = (xml("Orders", "a-1", "one"), xml("Orders", "A-1", "two"));
    watched(&[(definition, &lower)], |w| {
        w.home.replace(definition, &upper);
        w.expect(&[]);
        // Renamed and saved in another case.
        w.home.rename("sales/orders", "sales/renamed");
        w.home.replace("sales/renamed/project.xml", &lower);
        w.expect(&[]);
        w.home.remove_all("sales/renamed");
        w.expect(&[("project-delete", "sales", "a-1")]);
    });
}

#[test]
fn a_definition_without_its_engine_id_keeps_it() {
    let definition = "sales/orders/project.xml";
    let (first, bare) = (xml("Orders", "e-1", "one"), xml("Orders", "", "two"));
    let second = xml("Orders", "e-2", "three");
    watched(&[(definition, &first)], |w| {
        w.home.replace(definition, &bare);
        w.expect(&[]);
        w.home.write("sales/orders/published/v1/project.xml", &bare);
        w.expect(&[("project-publish", "sales", "e-1")]);
        w.home.remove_all("sales/orders/published");
        w.expect(&[]);
        // Known again after a rename, with its content only.
        w.home.rename("sales/orders", "sales/renamed");
        w.expect(&[]);
        w.home.rename("sales/renamed", "sales/orders");
        w.expect(&[]);
        w.home.replace(definition, &second);
        let [import, any] = import("sales", "e-2");
        w.expect(&[("project-delete", "sales", "e-1"), import, any]);
        w.home.replace(definition, &bare);
        w.expect(&[]);
        w.home.remove_all("sales/orders");
        w.expect(&[("project-delete", "sales", "e-2")]);
    });
}

#[test]
fn a_made_up_project_id_stays_when_the_project_is_renamed() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let bare = xml("Orders", "", "one");
    let daemon = home.start();
    home.write("sales/orders/project.xml", &bare);
    endpoint.wait_for(2);
    let imported = endpoint.take();
    let id = imported[0].parameter("projectId").unwrap().to_owned();
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    home.replace("sales/renamed/project.xml", &xml("Orders", "", "two"));
    daemon.fence();
    home.write("sales/renamed/published/v1/project.xml", &bare);
    let came = endpoint.wait_for(1);
    assert_eq!(summary(&came[0]), ("project-publish", "sales", id.as_str()));
    endpoint.take();
    // Over a restart, and a second rename while nobody watches.
    assert!(daemon.terminate().success());
    home.rename("sales/renamed", "sales/again");
    let scanned = home.command(&["scan"]);
    let moved =
        "sales/again (was sales/renamed)\n  moved: no event\n1 project compared: 1 change, 0";
    assert!(scanned.contains(moved), "{scanned}");
    let daemon = home.start();
    home.remove_all("sales/again");
    daemon.fence();
    let came = endpoint.wait_for(2);
    let expected = ["project-delete", "project-delete-and-unpublish"];
    assert_eq!(
        came.iter().map(summary).collect::<Vec<_>>(),
        expected.map(|event| (event, "sales", id.as_str()))
    );
}

#[test]
fn a_made_up_project_id_that_a_renamed_project_keeps_is_not_given_again() {
    let (first, other) = (xml("Orders", "", "one"), xml("Orders", "", "two"));
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let daemon = home.start();
    let next = |n: usize, expected: &str| {
        daemon.fence();
        let came = endpoint.wait_for(n);
        endpoint.take();
        let events: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        assert_eq!(events.join(" "), expected);
        let id = |one: &Received| one.parameter("projectId").unwrap().to_owned();
        let ids: Vec<String> = came.iter().map(id).collect();
        assert!(ids.iter().all(|one| *one == ids[0]), "{ids:?}");
        ids[0].clone()
    };
    home.write("sales/orders/project.xml", &first);
    let kept = next(2, "project-import project-import-any");
    home.rename("sales/orders", "sales/renamed");
    daemon.fence();
    home.write("sales/orders/project.xml", &other);
    let own = next(2, "project-import project-import-any");
    assert_ne!(own, kept);
    // The new project keeps its id when it is saved and renamed.
    home.replace("sales/orders/project.xml", &xml("Orders", "", "three"));
    daemon.fence();
    home.rename("sales/orders", "sales/moved");
    daemon.fence();
    home.write("sales/moved/published/v1/project.xml", &other);
    assert_eq!(next(1, "project-publish"), own);
    home.remove_all("sales/moved");
    let deleted = "project-delete project-delete-and-unpublish";
    assert_eq!(next(2, deleted), own);
    // The directory has its id again once no project keeps it.
    home.remove_all("sales/renamed");
    assert_eq!(next(1, "project-delete"), kept);
    home.write("sales/orders/project.xml", &other);
    assert_eq!(next(2, "project-import project-import-any"), kept);
}

#[test]
fn a_move_to_another_organization_deletes_there_before_it_imports_here() {
    let (a, b) = (xml("Orders", "e-1", "one"), xml("Orders", "e-1", "two"));
    let before = [
        ("sales/orders/project.xml", a.as_str()),
        ("sales/orders/published/v1/project.xml", &b),
        ("sales/orders/snapshots/s1.xml", &b),
    ];
    let deletes = |organization| {
        ["project-delete", "project-delete-and-unpublish"].map(|event| (event, organization, "e-1"))
    };
    let comes = |organization| {
        let [import, any] = import(organization, "e-1");
        let snapshot = ("snapshot-create", organization, "");
        [
            import,
            any,
            snapshot,
            ("project-publish", organization, "e-1"),
        ]
    };
    watched(&before, |w| {
        w.home.rename("sales/orders", "finance/orders");
        w.expect(&[&deletes("sales")[..], &comes("finance")].concat());
        // With its whole organization, which is renamed.
        fs::rename(w.home.at("finance"), w.home.at("hr")).unwrap();
        w.expect(&[&deletes("finance")[..], &comes("hr")].concat());
        // Out and back before it counts.
        w.home.rename("hr/orders", "sales/orders");
        w.home.rename("sales/orders", "hr/orders");
        w.expect(&[]);
        // While the original is still there it is a copy, and each organization has its own.
        copy(&w.home.at("hr/orders"), &w.home.at("it/orders"));
        w.expect(&comes("it"));
        w.home.remove_all("hr/orders");
        w.expect(&deletes("hr"));
    });
}

#[test]
fn projects_that_exchange_their_organizations_are_deleted_before_they_are_imported() {
    let (a, b) = (xml("Orders", "e-1", "one"), xml("Leads", "e-2", "two"));
    let before = [
        ("sales/orders/project.xml", a.as_str()),
        ("hr/orders/project.xml", &b),
    ];
    watched(&before, |w| {
        w.home.rename("sales/orders", "aside/.orders");
        w.home.rename("hr/orders", "sales/orders");
        w.home.rename("aside/.orders", "hr/orders");
        w.endpoint.wait_for(6);
        w.daemon.fence();
        let came = w.endpoint.take();
        for (id, from, to) in [("e-1", "sales", "hr"), ("e-2", "hr", "sales")] {
            let of_one: Vec<_> = came.iter().map(summary).filter(|one| one.2 == id).collect();
            let [import, any] = import(to, id);
            assert_eq!(of_one, [("project-delete", from, id), import, any]);
        }
        assert_eq!(came.len(), 6);
    });
}

#[test]
fn a_move_to_another_organization_while_nobody_watches_deletes_before_it_imports() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    home.write("sales/leads/project.xml", &xml("Leads", "e-2", "two"));
    assert!(home.start().terminate().success());
    home.rename("sales/orders", "sales/saved");
    home.replace("sales/saved/project.xml", &xml("Orders", "e-1", "two"));
    let scanned = home.command(&["scan"]);
    let saved = "sales/saved (was sales/orders)\n  moved, an ordinary save: no event\n2 projects";
    assert!(scanned.contains(saved), "{scanned}");
    home.replace("sales/saved/project.xml", &xml("Orders", "e-1", "one"));
    home.rename("sales/saved", "finance/orders");
    home.rename("sales/leads", "zoo/leads");
    let scanned = home.command(&["scan"]);
    assert!(scanned.contains("6 events"), "{scanned}");
    let daemon = home.start();
    endpoint.wait_for(6);
    daemon.fence();
    let came = endpoint.take();
    for (id, to) in [("e-1", "finance"), ("e-2", "zoo")] {
        let of_one: Vec<_> = came.iter().map(summary).filter(|one| one.2 == id).collect();
        let [import, any] = import(to, id);
        assert_eq!(of_one, [("project-delete", "sales", id), import, any]);
    }
    assert!(came.iter().all(|one| one.origin == "catch-up"));
    assert_eq!(came.len(), 6);
}

#[test]
fn a_delete_that_fails_holds_back_the_import_in_another_organization() {
    // The delete fails three times, and everything else is accepted at once.
    let endpoint = Endpoint::answering(|one| {
        let is_early = one.attempt.is_some_and(|attempt| attempt < 4);
        if one.event == "project-delete" && is_early {
            Reply::status(StatusCode::INTERNAL_SERVER_ERROR)
        } else {
            Reply::status(StatusCode::NO_CONTENT)
        }
    });
    let home = Home::new(&Settings::all_to(&endpoint));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    let daemon = home.start();
    home.rename("sales/orders", "finance/orders");
    daemon.wait_log("the import", |entry| {
        entry.message() == "Project Import" && entry.field("project") == "finance/orders"
    });
    let came = endpoint.wait_for(6);
    let events: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
    let delete = "project-delete";
    let expected = [
        delete,
        delete,
        delete,
        delete,
        "project-import",
        "project-import-any",
    ];
    assert_eq!(events, expected);
}

/// The arrival in another organization must not end the wait for the project that is replaced.
#[test]
fn a_project_that_replaces_another_lives_on_while_a_copy_arrives_elsewhere() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).settle("1s"));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    home.write("sales/leads/project.xml", &xml("Leads", "e-2", "two"));
    home.write("sales/visits/project.xml", &xml("Visits", "e-3", "three"));
    let daemon = home.start();
    home.remove_all("sales/leads");
    home.rename("sales/orders", "sales/leads");
    // Once this project is imported, both directories were observed.
    home.write("finance/plans/project.xml", &xml("Plans", "e-4", "four"));
    endpoint.wait_for(2);
    home.replace("finance/orders/project.xml", &xml("Orders", "e-1", "one"));
    // It vanishes later than the others, so they wait longer.
    home.remove_all("sales/visits");
    endpoint.wait_for(6);
    daemon.fence();
    let mut expected = vec![
        ("project-delete", "sales", "e-2"),
        ("project-delete", "sales", "e-3"),
    ];
    expected.extend(["e-1", "e-4"].iter().flat_map(|id| import("finance", id)));
    expected.sort_unstable();
    let came = endpoint.take();
    let mut came: Vec<_> = came.iter().map(summary).collect();
    came.sort_unstable();
    assert_eq!(came, expected);
}

#[test]
fn replacing_a_project_by_its_copy_deletes_nothing() {
    let definition = "sales/orders/project.xml";
    let a = xml("Orders", "e-1", "one");
    watched(&[(definition, &a)], |w| {
        copy(&w.home.at("sales/orders"), &w.home.at("sales/orders.new"));
        w.expect(&import("sales", "e-1"));
        w.home.remove_all("sales/orders");
        w.home.rename("sales/orders.new", "sales/orders");
        w.expect(&[]);
        // Slowly.
        copy(&w.home.at("sales/orders"), &w.home.at("sales/orders.new"));
        w.expect(&import("sales", "e-1"));
        w.home.remove_all("sales/orders");
        w.expect(&[]);
        w.home.rename("sales/orders.new", "sales/orders");
        w.expect(&[]);
        // It is deleted once the last directory that has it is gone.
        w.home.remove_all("sales/orders");
        w.expect(&[("project-delete", "sales", "e-1")]);
    });
}

#[test]
fn a_project_whose_old_directory_cannot_be_read_is_imported_after_the_settle_time() {
    let a = xml("Orders", "e-1", "one");
    let definition = "sales/orders/project.xml";
    watched(&[(definition, &a)], |w| {
        // An incomplete definition tells neither that the project is there nor that it is gone.
        w.home.replace(definition, "<schema");
        w.expect(&[]);
        w.home.write("finance/orders/project.xml", &a);
        w.expect(&import("finance", "e-1"));
        w.home.remove_all("sales/orders");
        w.expect(&[("project-delete", "sales", "e-1")]);
    });
}

#[test]
fn projects_that_share_an_id_for_good_do_not_hold_each_other() {
    let template = xml("Template", "e-1", "one");
    let names: Vec<String> = (0..60).map(|n| format!("org-{}/p{n}", n % 3)).collect();
    watched(&[], |w| {
        for name in &names {
            w.home.write(&format!("{name}/project.xml"), &template);
        }
        w.endpoint.wait_for(120);
        w.daemon.fence();
        assert_eq!(w.endpoint.take().len(), 120);
        // One is deleted from its organization when the last one there is gone.
        for name in names.iter().filter(|name| name.starts_with("org-1/")) {
            w.home.remove_all(name);
        }
        w.endpoint.wait_for(1);
        w.daemon.fence();
        let came = w.endpoint.take();
        assert!(!came.is_empty());
        let is_delete = |one: &Received| summary(one) == ("project-delete", "org-1", "e-1");
        assert!(came.iter().all(is_delete));
        w.home
            .replace("org-2/p2/project.xml", &xml("Changed", "e-9", "two"));
        w.expect(&import("org-2", "e-9"));
    });
}

/// Copies a directory, as `cp -r` does.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn who_heard_the_import_of_a_removed_copy_hears_the_delete_of_the_project() {
    let (all, copies) = (Endpoint::new(), Endpoint::new());
    let home = Home::new(&Settings::of([
        Webhook::new("all", &all.url()),
        Webhook::new("copies", &copies.url()).projects("[\"sales/copy\", \"fence/*\"]"),
    ]));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    let daemon = home.start();
    copy(&home.at("sales/orders"), &home.at("sales/copy"));
    copies.wait_for(2);
    home.remove_all("sales/copy");
    daemon.fence();
    home.remove_all("sales/orders");
    daemon.fence();
    for endpoint in [&all, &copies] {
        let came = endpoint.wait_for(3);
        let events: Vec<&str> = came.iter().map(|one| one.event.as_str()).collect();
        let expected = ["project-import", "project-import-any", "project-delete"];
        assert_eq!(events, expected);
    }
}

#[test]
fn names_match_in_every_unicode_form() {
    let (composed, decomposed) = ("Caf\u{e9}", "Cafe\u{301}");
    for (on_disk, configured) in [(decomposed, composed), (composed, decomposed)] {
        let endpoint = Endpoint::new();
        let webhook = Webhook::new("all", &endpoint.url());
        let projects = format!("[\"{configured}/{configured}-*\", \"fence/*\"]");
        let settings = Settings::of([webhook.projects(&projects)]);
        let home = Home::new(&settings.top(&format!(
            "organizations: {{ {configured}: {{ name: The {configured}, id: c-1 }} }}"
        )));
        let daemon = home.start();
        let path = format!("{on_disk}/{on_disk}-1/project.xml");
        home.write(&path, &xml("Orders", "e-1", "one"));
        daemon.fence();
        let came = endpoint.wait_for(2);
        let name = format!("The {configured}");
        assert_eq!(came[0].parameter("organizationName"), Some(name.as_str()));
        assert_eq!(came[0].parameter("organizationId"), Some("c-1"));
    }
}

#[test]
fn a_project_in_a_recycle_bin_is_deleted() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint);
    let home = Home::new(&settings);
    for (name, id) in [("orders", "e-1"), ("leads", "e-2")] {
        let content = xml(name, id, "one");
        home.write(&format!("sales/{name}/project.xml"), &content);
    }
    home.write("@eaDir/crm/project.xml", &xml("Metadata", "e-3", "one"));
    let daemon = home.start();
    home.rename("sales/orders", "sales/#recycle");
    home.rename("sales/leads", "#recycle/leads");
    endpoint.wait_for(2);
    daemon.fence();
    let came = endpoint.take();
    let mut came: Vec<_> = came.iter().map(summary).collect();
    came.sort_unstable();
    assert_eq!(
        came,
        ["e-1", "e-2"].map(|id| ("project-delete", "sales", id))
    );
    // Another list: what becomes visible is adopted, and counts from then on.
    home.reconfigure(&settings.repository("ignore: [\"@*\"]"));
    assert!(daemon.reload());
    daemon.wait_message("full scan finished", 3);
    home.remove_all("sales/#recycle");
    daemon.fence();
    let came = endpoint.wait_for(1);
    assert_eq!(
        came.iter().map(summary).collect::<Vec<_>>(),
        [("project-delete", "sales", "e-1")]
    );
    assert!(home.command(&["check"]).contains("  ignore     @*"));
}

#[test]
fn a_renamed_organization_of_copies_is_deleted_once_before_it_is_imported() {
    let template = xml("Template", "e-1", "one");
    let n = 100;
    let before: Vec<String> = (0..n).map(|n| format!("sales/p{n}/project.xml")).collect();
    let before: Vec<(&str, &str)> = before
        .iter()
        .map(|path| (path.as_str(), template.as_str()))
        .collect();
    watched(&before, |w| {
        fs::rename(w.home.at("sales"), w.home.at("finance")).unwrap();
        w.endpoint.wait_for(1 + 2 * n);
        w.daemon.fence();
        let came = w.endpoint.take();
        let mut came: Vec<_> = came.iter().map(summary).collect();
        assert_eq!(came.remove(0), ("project-delete", "sales", "e-1"));
        assert_eq!(came.len(), 2 * n);
        assert!(
            came.iter()
                .all(|one| one.0.starts_with("project-import") && one.1 == "finance")
        );
    });
}

/// A definition with a root attribute `id` and no engineId.
fn with_root_id(id: &str, body: &str) -> String {
    let id = format!("version=\"2.0\" id=\"{id}\"");
    xml("Orders", "", body).replacen("version=\"2.0\"", &id, 1)
}

#[test]
fn a_project_that_moves_and_gets_back_its_kept_id_is_the_same() {
    let definition = "sales/orders/project.xml";
    let with_id = |body| xml("Orders", "e-1", body);
    watched(&[(definition, &with_id("one"))], |w| {
        // Saved once without its engineId, then moved, and saved with it in one go.
        w.home.replace(definition, &xml("Orders", "", "two"));
        w.expect(&[]);
        let beside = w.home.beside("moving");
        fs::rename(w.home.at("sales/orders"), &beside).unwrap();
        fs::write(beside.join("project.xml"), with_id("three")).unwrap();
        fs::rename(&beside, w.home.at("sales/renamed")).unwrap();
        w.expect(&[]);
        // The same to another organization.
        let definition = "sales/renamed/project.xml";
        w.home.replace(definition, &xml("Orders", "", "four"));
        w.expect(&[]);
        fs::rename(w.home.at("sales/renamed"), &beside).unwrap();
        fs::write(beside.join("project.xml"), with_id("five")).unwrap();
        fs::create_dir(w.home.at("finance")).unwrap();
        fs::rename(&beside, w.home.at("finance/orders")).unwrap();
        let [import, any] = import("finance", "e-1");
        w.expect(&[("project-delete", "sales", "e-1"), import, any]);
        // A copy with the id of a project that keeps it.
        let definition = "finance/orders/project.xml";
        w.home.replace(definition, &xml("Orders", "", "six"));
        w.expect(&[]);
        w.home.write("finance/copy/project.xml", &with_id("seven"));
        w.expect(&[import, any]);
        w.home.remove_all("finance/orders");
        w.expect(&[]);
        w.home.remove_all("finance/copy");
        w.expect(&[("project-delete", "finance", "e-1")]);
    });
}

#[test]
fn a_root_attribute_id_identifies_a_project() {
    let definition = "sales/orders/project.xml";
    watched(&[(definition, &with_root_id("r-1", "one"))], |w| {
        // Moved and saved in one go.
        let beside = w.home.beside("moving");
        fs::rename(w.home.at("sales/orders"), &beside).unwrap();
        fs::write(beside.join("project.xml"), with_root_id("R-1", "two")).unwrap();
        fs::rename(&beside, w.home.at("sales/renamed")).unwrap();
        w.expect(&[]);
        // Saved without its id, it keeps it.
        let definition = "sales/renamed/project.xml";
        w.home.replace(definition, &xml("Orders", "", "three"));
        w.expect(&[]);
        w.home.replace(definition, &with_root_id("r-2", "four"));
        let [import, any] = import("sales", "r-2");
        w.expect(&[("project-delete", "sales", "R-1"), import, any]);
        // Moved to another organization.
        w.home.rename("sales/renamed", "finance/orders");
        let [import, any] = self::import("finance", "r-2");
        w.expect(&[("project-delete", "sales", "r-2"), import, any]);
    });
}
