//! Projects that change their id, move, or are copied.

use std::fs;

use super::{Expected, import, watched};
use crate::common::{on_both_backends, xml};

on_both_backends!(
    another_engine_id_is_another_project,
    a_move_within_the_organization_is_nothing_and_to_another_is_delete_and_import,
    a_copied_project_gives_the_same_events_in_the_same_order_however_it_is_seen,
);

fn another_engine_id_is_another_project(backend: &str) {
    let (old, new) = (xml("Orders", "e-1", "one"), xml("Orders II", "e-2", "one"));
    let full = xml("Orders", "e-3", "one");
    let before = [
        ("sales/plain/project.xml", old.as_str()),
        ("sales/full/project.xml", full.as_str()),
        ("sales/full/published/v1/project.xml", full.as_str()),
    ];
    watched(backend, &before, |w| {
        w.home.replace("sales/plain/project.xml", &new);
        let came = w.endpoint.wait_for(3);
        w.daemon.fence();
        let told: Vec<(&str, Option<&str>, &[u8])> = came
            .iter()
            .map(|one| {
                (
                    one.event.as_str(),
                    one.parameter("projectId"),
                    &one.payload[..],
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("project-delete", Some("e-1"), old.as_bytes()),
                ("project-import", Some("e-2"), new.as_bytes()),
                ("project-import-any", Some("e-2"), new.as_bytes()),
            ]
        );
        w.endpoint.take();
        // The published copy is gone as well: unpublished too.
        w.home.remove_all("sales/full/published");
        w.home.replace("sales/full/project.xml", &new);
        assert_eq!(
            w.endpoint.take_events(4),
            [
                "project-delete",
                "project-delete-and-unpublish",
                "project-import",
                "project-import-any"
            ]
        );
        // A definition that loses its engineId, or gains one, is saved.
        let bare = xml("Orders II", "", "one");
        w.home.replace("sales/full/project.xml", &bare);
        w.expect_nothing();
        w.home.replace("sales/full/project.xml", &new);
        w.expect_nothing();
    });
}

fn a_move_within_the_organization_is_nothing_and_to_another_is_delete_and_import(backend: &str) {
    let (a, s, v) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "snapshot"),
        xml("Orders", "e-1", "published"),
    );
    let before = [
        ("sales/orders/project.xml", a.as_str()),
        ("sales/orders/snapshots/s1.xml", s.as_str()),
        ("sales/orders/published/v1/project.xml", v.as_str()),
    ];
    watched(backend, &before, |w| {
        w.home.rename("sales/orders", "sales/renamed");
        w.expect_nothing();
        // It is on record under its new path: new changes are events, existing files are not.
        w.home.write("sales/renamed/project.xml", &s);
        w.expect("sales", "Orders", "e-1", &[("snapshot-restore", None, &s)]);
        w.home.write("sales/renamed/project.xml", &a);
        w.expect_nothing();

        w.home.rename("sales/renamed", "hr/orders");
        let came = w.endpoint.wait_for(6);
        w.daemon.fence();
        assert_eq!(w.endpoint.take().len(), 6);
        let of = |organization: &str| -> Vec<&str> {
            came.iter()
                .filter(|one| one.parameter("organizationName") == Some(organization))
                .map(|one| one.event.as_str())
                .collect()
        };
        assert_eq!(
            of("sales"),
            ["project-delete", "project-delete-and-unpublish"]
        );
        assert_eq!(
            of("hr"),
            [
                "project-import",
                "project-import-any",
                "snapshot-create",
                "project-publish"
            ]
        );
    });
}

fn a_copied_project_gives_the_same_events_in_the_same_order_however_it_is_seen(backend: &str) {
    let content = |body: &str| xml("Orders", "e-1", body);
    let files = [
        ("project.xml", content("one")),
        ("snapshots/s1.xml", content("s1")),
        ("snapshots/s2.xml", content("s2")),
        ("snapshots/s3.xml", content("s3")),
        ("published/v1/project.xml", content("v1")),
    ];
    watched(backend, &[], |w| {
        let expected: Vec<Expected<'_>> =
            import(&files[0].1)
                .into_iter()
                .chain(files[1..4].iter().map(|(path, content)| {
                    ("snapshot-create", Some(&path[10..12]), content.as_str())
                }))
                .chain([("project-publish", Some("v1"), files[4].1.as_str())])
                .collect();
        // In one rename.
        for (path, content) in &files {
            crate::common::write(&w.home.beside("whole").join(path), content);
        }
        fs::create_dir_all(w.home.at("sales")).unwrap();
        fs::rename(w.home.beside("whole"), w.home.at("sales/whole")).unwrap();
        w.expect("sales", "Orders", "e-1", &expected);
        // File by file, without pauses.
        for (path, content) in &files {
            w.home.write(&format!("sales/quick/{path}"), content);
        }
        w.expect("sales", "Orders", "e-1", &expected);
        // File by file, each observed before the next.
        let mut told = 0;
        for (path, content) in &files {
            w.home.write(&format!("sales/slow/{path}"), content);
            told += if *path == "project.xml" { 2 } else { 1 };
            w.endpoint.wait_for(told);
        }
        w.expect("sales", "Orders", "e-1", &expected);
    });
}
