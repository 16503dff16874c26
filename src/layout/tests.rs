use super::cursor::match_component;
use super::template::{intersect, parse_component, tokens};
use super::*;

fn standard() -> Layout {
    let strings = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    Layout::new(
        &strings(&["{organization}/{project}/project.xml"]),
        &strings(&[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ]),
        &strings(&[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ]),
    )
    .expect("the layout is valid")
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
fn a_known_project_needs_no_listing_except_of_its_tags() {
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
fn a_cursor_of_one_project_follows_no_other() {
    let layout = Layout::new(
        &["definitions/{project}.xml".to_owned()],
        &["out/{project}@{versionTag}.xml".to_owned()],
        &[],
    )
    .expect("valid");
    let leads = |key: ProjectKey, directory: &str, name: &str| {
        let cursor = layout.project(&key).enter(directory);
        cursor.and_then(|cursor| cursor.enter(name)).is_some()
    };
    let key = || ProjectKey::new("default", "a");
    assert!(leads(key(), "out", "a@1.xml"));
    assert!(!leads(key(), "out", "b@1.xml"));
    assert!(!leads(
        ProjectKey::new("elsewhere", "a"),
        "definitions",
        "a.xml"
    ));
}

#[test]
fn the_cursor_of_a_project_directory_matches_as_from_the_root() {
    let layout = standard();
    let key = ProjectKey::new("sales", "orders");
    let (path, cursor) = layout.directory_of(&key).unwrap();
    let file = ["snapshots", "v1.xml"]
        .iter()
        .try_fold(cursor, |cursor, name| cursor.enter(name))
        .and_then(|cursor| cursor.file());
    let from_root = layout.at(&format!("{path}/snapshots/v1.xml"));
    assert_eq!(file, from_root.and_then(|cursor| cursor.file()));
}
