//! Recognises the layouts of example trees.

use super::*;

fn recognised(paths: &[&str]) -> Option<Recognised> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    recognise(&paths, &Ignored::default())
}

/// The directory, the index of the shape, and the counts: organizations, projects, published
/// copies, snapshots, unexplained files.
type Summary = (&'static str, usize, [usize; 5]);

#[test]
fn each_tree_has_the_layout_that_explains_most_of_its_files() {
    let table: &[(&str, &[&str], Option<Summary>)] = &[
        ("nothing", &[], None),
        (
            "one project",
            &["o/p/project.xml"],
            Some(("", 0, [1, 1, 0, 0, 0])),
        ),
        (
            "the default layout",
            &[
                "o/p/project.xml",
                "o/p/published/project.xml",
                "o/p/published/v1/project.xml",
                "o/p/snapshots/a.xml",
                "o/p/snapshots/b/project.xml",
                "q/p/project.xml",
            ],
            Some(("", 0, [2, 2, 2, 2, 0])),
        ),
        (
            "a project with far more copies than there are projects",
            &[
                "o/p/project.xml",
                "o/p/snapshots/1.xml",
                "o/p/snapshots/2.xml",
                "o/p/snapshots/3.xml",
                "o/p/published/1/project.xml",
                "o/p/published/2/project.xml",
                "o/p/published/3/project.xml",
            ],
            Some(("", 0, [1, 1, 3, 3, 0])),
        ),
        (
            "a support bundle",
            &[
                "metadata/default/4f0a/project.xml",
                "metadata/default/77aa/project.xml",
                "metadata/sales/91bb/project.xml",
                "engine/conf/engine.xml",
            ],
            Some(("metadata", 0, [2, 3, 0, 0, 1])),
        ),
        (
            "a support bundle in a directory",
            &[
                "bundle/metadata/default/a/project.xml",
                "bundle/metadata/other/b/project.xml",
            ],
            Some(("bundle/metadata", 0, [2, 2, 0, 0, 0])),
        ),
        (
            "an organization",
            &[
                "p/project.xml",
                "q/project.xml",
                "q/snapshots/a.xml",
                "q/published/project.xml",
            ],
            Some(("", 1, [1, 2, 1, 1, 0])),
        ),
        ("flat", &["a.xml", "b.xml"], Some(("", 2, [1, 2, 0, 0, 0]))),
        (
            "flat below",
            &["x/a.xml", "x/b.xml"],
            Some(("", 3, [1, 2, 0, 0, 0])),
        ),
        (
            "flat for each organization",
            &["o/a.xml", "o/b.xml", "q/c.xml"],
            Some(("", 3, [2, 3, 0, 0, 0])),
        ),
        (
            "a project itself",
            &["project.xml", "published/project.xml", "snapshots/a.xml"],
            None,
        ),
        (
            "copies of a project without a definition",
            &[
                "o/p/project.xml",
                "o/q/published/project.xml",
                "o/q/snapshots/a.xml",
            ],
            Some(("", 0, [1, 1, 0, 0, 2])),
        ),
        (
            "two trees",
            &[
                "a/x/o/p/project.xml",
                "a/x/o/q/project.xml",
                "b/x/o/p/project.xml",
            ],
            Some(("a/x", 0, [1, 2, 0, 0, 1])),
        ),
        (
            "deeper files beside a default layout",
            &[
                "o/p/project.xml",
                "o/q/project.xml",
                "o/p/attic/old/project.xml",
            ],
            Some(("", 0, [1, 2, 0, 0, 1])),
        ),
    ];
    for (name, paths, expected) in table {
        let found = recognised(paths);
        let summary = found.as_ref().map(|found| {
            let shape = SHAPES.iter().position(|shape| shape == found.shape);
            let counts = [
                found.organizations.len(),
                found.projects(),
                found.published,
                found.snapshots,
                found.unexplained.len(),
            ];
            (found.below.as_str(), shape.unwrap_or(usize::MAX), counts)
        });
        assert_eq!(summary, *expected, "{name}: {found:#?}");
    }
}

#[test]
fn every_known_layout_is_valid_and_explains_what_it_was_made_for() {
    for shape in &SHAPES {
        assert!(
            shape.layout(&Ignored::default()).is_some(),
            "{}",
            shape.name
        );
        let fill = |text: &&str| {
            let named = text
                .replace("{organization}", "sales")
                .replace("{project}", "orders");
            named.replace("{versionTag}", "v1")
        };
        let paths = [shape.project, shape.published, shape.snapshot].concat();
        let mut paths: Vec<String> = paths.iter().map(fill).collect();
        // Adds a second project and organization, because a single one also fits another layout.
        let definition = shape.project.iter().map(|text| {
            text.replace("{organization}", "finance")
                .replace("{project}", "budget")
        });
        paths.extend(definition);
        let found = recognise(&paths, &Ignored::default());
        let found = found.expect("recognised");
        assert_eq!(
            (found.shape, found.below.as_str()),
            (shape, ""),
            "{paths:?}"
        );
        assert_eq!(found.unexplained, [], "{}", shape.name);
    }
}

#[test]
fn ignored_names_are_no_projects() {
    let globs = [globset::Glob::new("#recycle").expect("a glob")];
    let ignored = Ignored::new(&globs).expect("few globs");
    let paths = [
        "#recycle/p/project.xml".to_owned(),
        "o/.p/project.xml".to_owned(),
    ];
    assert_eq!(recognise(&paths, &ignored), None);
}
