use super::cursor::match_component;
use super::template::{NAME_MAX, intersect, parse_component, tokens};
use super::*;

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

fn place(layout: &Layout, path: &str) -> Option<String> {
    let place = layout.at(path)?.place()?;
    Some(format!(
        "{} {} {}",
        place.key,
        place.role.as_str(),
        place.tag.as_deref().unwrap_or("-")
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
        assert_eq!(place(&layout, path).as_deref(), expected, "{path}");
    }
}

#[test]
fn directories_that_lead_on() {
    let layout = standard();
    for (path, leads_on, project) in [
        ("", true, None),
        ("sales", true, None),
        ("sales/crm", true, Some("sales/crm")),
        ("sales/crm/published", true, Some("sales/crm")),
        ("sales/crm/snapshots/v1", true, Some("sales/crm")),
        ("sales/crm/project.xml", false, Some("sales/crm")),
    ] {
        let cursor = layout.at(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(cursor.leads_on(), leads_on, "{path}");
        let key = cursor.project().map(|key| key.to_string());
        assert_eq!(key.as_deref(), project, "{path}");
    }
    for path in [
        "sales/.git",
        "sales/crm/src",
        "sales/crm/published/v1/deeper",
    ] {
        assert!(layout.at(path).is_none(), "{path}");
    }
}

#[test]
fn a_known_project_needs_no_listing_but_of_its_tags() {
    let layout = standard();
    let cursor = layout.project(&ProjectKey::new("sales", "crm"));
    let only = |names: &[&str]| Entries::Only(names.iter().map(|n| (*n).to_owned()).collect());
    assert_eq!(cursor.entries(), only(&["sales"]));
    let organization = cursor.enter("sales").expect("enters");
    assert!(cursor.enter("other").is_none());
    assert_eq!(organization.entries(), only(&["crm"]));
    let project = organization.enter("crm").expect("enters");
    assert_eq!(
        project.entries(),
        only(&["project.xml", "published", "snapshots"])
    );
    assert_eq!(
        project.enter("snapshots").expect("enters").entries(),
        Entries::Any
    );
    assert_eq!(layout.root().entries(), Entries::Any);
}

#[test]
fn layouts_of_other_shapes() {
    let flat = layout(
        &["definitions/{project}.xml"],
        &["out/{project}@{versionTag}.xml"],
        &[],
    )
    .expect("valid");
    assert_eq!(
        place(&flat, "definitions/a.xml").as_deref(),
        Some("default/a definition -")
    );
    assert_eq!(
        place(&flat, "out/a@b@c.xml").as_deref(),
        Some("default/a published b@c")
    );
    assert!(
        flat.project(&ProjectKey::new("elsewhere", "a"))
            .enter("definitions")
            .is_none()
    );
    let cursor = flat.project(&ProjectKey::new("default", "a"));
    assert!(
        cursor
            .enter("out")
            .and_then(|c| c.enter("a@1.xml"))
            .is_some()
    );
    assert!(
        cursor
            .enter("out")
            .and_then(|c| c.enter("b@1.xml"))
            .is_none()
    );
}

#[test]
fn faults_are_named() {
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
        (&["{tag}/{project}.xml"], &[], "unknown capture {tag}"),
        (&["{project"], &[], "{ without a }"),
        (&["project}"], &[], "} without a {"),
        (
            &["{organization}{project}.xml"],
            &[],
            "right behind another",
        ),
        (&["{project}/{project}.xml"], &[], "more than once"),
        (&["project.xml"], &[], "no {project}"),
        (&["{project}/{versionTag}.xml"], &[], "has {versionTag}"),
        (&[".{project}/a.xml"], &[], "can never match"),
        (
            &["{project}.xml"],
            &["{organization}/{project}.xml"],
            "all templates have it",
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
fn overlap_agrees_with_trying_all_short_texts() {
    let component = |text: &str| parse_component(text).expect("parses");
    let alphabet = ['a', 'b', '.', '-'];
    let mut texts = vec![String::new()];
    for length in 0..5 {
        let longer: Vec<String> = texts
            .iter()
            .filter(|text| text.chars().count() == length)
            .flat_map(|text| alphabet.map(|c| format!("{text}{c}")))
            .collect();
        texts.extend(longer);
    }
    let patterns = [
        "a",
        "{project}",
        "a{project}",
        "{project}b",
        "a{project}b",
        "{project}-{versionTag}",
        "ab",
        "{project}a{versionTag}",
        ".a",
        "{project}.",
        "-{project}-",
    ];
    for left in patterns {
        for right in patterns {
            let (l, r) = (component(left), component(right));
            let found = texts.iter().any(|text| {
                match_component(&l, text, &Bound::default()).is_some()
                    && match_component(&r, text, &Bound::default()).is_some()
            });
            assert_eq!(intersect(&tokens(&l), &tokens(&r)), found, "{left} {right}");
        }
    }
}

#[test]
fn a_project_has_a_home_where_all_its_files_lie_below_one_directory() {
    let key = ProjectKey::new("sales", "orders");
    let home = |layout: &Layout| layout.home(&key).map(|(path, _)| path);
    assert_eq!(home(&standard()).as_deref(), Some("sales/orders"));
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
        // The definitions are in another directory, or are files themselves.
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
        assert_eq!(home(&layout).as_deref(), expected, "{project}");
    }
    // The cursor there reaches every file of the project, as the one at the root does.
    let (path, cursor) = standard().home(&key).unwrap();
    let place = ["snapshots", "v1.xml"]
        .iter()
        .try_fold(cursor, |cursor, name| cursor.enter(name))
        .and_then(|cursor| cursor.place());
    let from_root = standard().at(&format!("{path}/snapshots/v1.xml"));
    assert_eq!(place, from_root.and_then(|cursor| cursor.place()));
}
