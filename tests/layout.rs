//! Path templates: matches of paths, faults and bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use project_webhooks::domain::project::{ProjectKey, Role};
use project_webhooks::layout::Layout;

const TEMPLATES_MAX: usize = 32;
const TEMPLATE_MAX: usize = 1024;
const NAME_MAX: usize = 255;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn layout(project: &[&str], published: &[&str], snapshot: &[&str]) -> Result<Layout, String> {
    Layout::new(&strings(project), &strings(published), &strings(snapshot)).map_err(|errors| {
        errors
            .iter()
            .map(|e| format!("{}[{}]: {}", e.role.as_str(), e.index, e.reason))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn standard() -> Layout {
    layout(
        &["{organization}/{project}/project.xml"],
        &[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ],
        &[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ],
    )
    .expect("the default layout is valid")
}

fn file(layout: &Layout, path: &str) -> Option<String> {
    let file = layout.at(path)?.file()?;
    Some(format!(
        "{} {} {}",
        file.key,
        file.role.as_str(),
        file.tag.as_deref().unwrap_or("-")
    ))
}

#[test]
fn paths_of_the_default_layout() {
    let layout = standard();
    for (path, expected) in [
        ("sales/crm/project.xml", Some("sales/crm definition -")),
        (
            "sales/crm/published/project.xml",
            Some("sales/crm published -"),
        ),
        (
            "sales/crm/published/v 1/project.xml",
            Some("sales/crm published v 1"),
        ),
        ("sales/crm/snapshots/v1.xml", Some("sales/crm snapshot v1")),
        (
            "sales/crm/snapshots/a.b.xml",
            Some("sales/crm snapshot a.b"),
        ),
        (
            "sales/crm/snapshots/v1/project.xml",
            Some("sales/crm snapshot v1"),
        ),
        ("sales/crm/snapshots/.v1.xml", None),
        ("sales/crm/snapshots/.xml", None),
        ("sales/.git/project.xml", None),
        (".sales/crm/project.xml", None),
        ("sales/crm/project.xml.tmp", None),
        ("sales/crm/.project.xml.swp", None),
        ("sales/project.xml", None),
        ("project.xml", None),
        ("sales/crm/deeper/project.xml", None),
    ] {
        assert_eq!(file(&layout, path).as_deref(), expected, "{path}");
    }
}

#[test]
fn layouts_of_other_shapes() {
    let flat = layout(
        &["definitions/{project}.xml"],
        &["out/{project}@{versionTag}.xml"],
        &[],
    )
    .expect("valid");
    for (path, expected) in [
        ("definitions/a.xml", "default/a definition -"),
        ("out/a@b@c.xml", "default/a published b@c"),
    ] {
        assert_eq!(file(&flat, path).as_deref(), Some(expected));
    }
}

#[test]
fn faults_are_reported() {
    for (project, published, expected) in [
        (&[][..], &[][..], "no template for the definition"),
        (&[""], &[], "is empty"),
        (&["/{project}.xml"], &[], "starts with a slash"),
        (&["a//{project}.xml"], &[], "empty path component"),
        (&["{project}/"], &[], "empty path component"),
        (&["../{project}.xml"], &[], "\"..\""),
        (
            &["{organisation}/{project}.xml"],
            &[],
            "did you mean {organization}?",
        ),
        (
            &["{tag}/{project}.xml"],
            &[],
            "unknown capture {tag}; allowed: {organization}",
        ),
        (&["{project"], &[], "{ without a }"),
        (&["project}"], &[], "} without a {"),
        (
            &["{organization}{project}.xml"],
            &[],
            "directly after another",
        ),
        (&["{project}/{project}.xml"], &[], "more than once"),
        (&["project.xml"], &[], "no {project}"),
        (&["{project}/{versionTag}.xml"], &[], "has {versionTag}"),
        (&[".{project}/a.xml"], &[], "can never match"),
        (
            &["{project}.xml"],
            &["{organization}/{project}.xml"],
            "all templates must have it",
        ),
        (
            &["{project}.xml", "{project}.xml"],
            &[],
            "project[1]: can match the same",
        ),
        (
            &["{project}/a.xml"],
            &["{project}/{versionTag}.xml"],
            "can match the same path",
        ),
        (
            &["{project}-x.xml"],
            &["a{project}.xml"],
            "can match the same path",
        ),
    ] {
        let expected = expected.replace("project[1]", "definition[1]");
        let fault = layout(project, published, &[]).expect_err(&expected);
        assert!(fault.contains(&expected), "{project:?}: {fault}");
    }
    for (project, published) in [
        (&["{project}/a.xml"][..], &["{project}/b.xml"][..]),
        (&["{project}/a.xml"], &["{project}/b/{versionTag}.xml"]),
        (&["{project}-x.xml"], &["{project}-y.xml"]),
        (&["a{project}"], &["b{project}"]),
        (&["{project}"], &[".{versionTag}/{project}"][..0]),
        (&["x/.a.xml{project}"], &[][..]),
    ] {
        let result = layout(project, published, &[]);
        if project[0].starts_with("x/.") {
            assert!(result.is_err());
        } else {
            assert!(result.is_ok(), "{project:?} {published:?} {result:?}");
        }
    }
}

#[test]
fn number_and_length_are_bounded() {
    let texts =
        |n: usize| -> Vec<String> { (0..n).map(|i| format!("{{project}}/{i}.xml")).collect() };
    let project = ["{project}/project.xml".to_owned()];
    let most = texts(TEMPLATES_MAX);
    assert!(Layout::new(&most, &[], &[]).is_ok());
    assert!(Layout::new(&project, &most, &[]).is_ok());
    for n in [TEMPLATES_MAX + 1, 10_000] {
        let errors = Layout::new(&project, &[], &texts(n)).expect_err("too many");
        let [error] = errors.as_slice() else {
            panic!("{errors:?}")
        };
        assert_eq!((error.role, error.index), (Role::Snapshot, TEMPLATES_MAX));
        assert!(error.reason.contains(&format!("{n} templates")), "{error}");
    }

    // Characters, not bytes; the seven directories have names of 254 bytes.
    let of_length = |n: usize| {
        let directories = format!("{}/", "é".repeat(127)).repeat(7);
        let rest = n - directories.chars().count() - "{project}".len();
        format!("{directories}{}{{project}}", "x".repeat(rest))
    };
    for (length, is_allowed) in [
        (TEMPLATE_MAX - 1, true),
        (TEMPLATE_MAX, true),
        (TEMPLATE_MAX + 11, false),
    ] {
        let text = of_length(length);
        assert_eq!(text.chars().count(), length);
        let result = Layout::new(&[text], &[], &[]);
        assert_eq!(result.is_ok(), is_allowed, "{length}: {result:?}");
    }
    for (length, is_allowed) in [(NAME_MAX, true), (NAME_MAX + 1, false)] {
        let text = format!("{{project}}{}", "x".repeat(length - 1));
        assert_eq!(
            Layout::new(&[text], &[], &[]).is_ok(),
            is_allowed,
            "{length}"
        );
    }
}

#[test]
fn a_project_has_a_directory_if_all_its_files_are_below_it() {
    let key = ProjectKey::new("sales", "orders");
    let directory = |layout: &Layout| layout.directory_of(&key).map(|(path, _)| path);
    assert_eq!(directory(&standard()).as_deref(), Some("sales/orders"));
    for (project, published, snapshot, expected) in [
        (
            "{project}/project.xml",
            "{project}/p/project.xml",
            "{project}/s/{versionTag}.xml",
            None,
        ),
        (
            "a/{organization}-{project}.d/x.xml",
            "a/{organization}-{project}.d/p/x.xml",
            "a/{organization}-{project}.d/s/{versionTag}.xml",
            Some("a/sales-orders.d"),
        ),
        // The definitions are elsewhere, or are files themselves.
        (
            "d/{organization}/{project}/x.xml",
            "p/{organization}/{project}/x.xml",
            "p/{organization}/{project}/{versionTag}.s",
            None,
        ),
        (
            "{organization}/{project}.xml",
            "{organization}/{project}.xml.d/p.xml",
            "{organization}/{project}.xml.d/s/{versionTag}",
            None,
        ),
    ] {
        let layout = layout(&[project], &[published], &[snapshot]).unwrap();
        assert_eq!(directory(&layout).as_deref(), expected, "{project}");
    }
}
