//! The unit files: what they say of each other.

use std::collections::BTreeSet;

use crate::root;

fn directives(name: &str) -> Vec<String> {
    std::fs::read_to_string(root().join("systemd").join(name))
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_template_differs_from_the_service_by_its_names_alone() {
    let service = directives("project-webhooks.service");
    let template = directives("project-webhooks@.service");
    let named: Vec<String> = service
        .iter()
        .map(|line| match line.split_once('=') {
            Some(("Description", value)) => format!("Description={value} (%i)"),
            Some((name @ ("User" | "Group" | "StateDirectory" | "RuntimeDirectory"), value)) => {
                format!("{name}={value}-%i")
            }
            _ => line.replace("/config.yaml", "-%i/config.yaml"),
        })
        .collect();
    assert_eq!(template, named);
}

#[test]
fn every_example_is_explained_and_has_its_settings() {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("systemd/examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = std::fs::read_to_string(root().join("systemd/examples").join(&name)).unwrap();
        assert!(text.starts_with("# "), "{name}");
        assert!(directives(&format!("examples/{name}")).len() >= 2, "{name}");
        names.insert(name);
    }
    for name in [
        "credentials",
        "group",
        "home",
        "nfs",
        "notify-reload",
        "postgres",
    ] {
        assert!(names.contains(&format!("{name}.conf")), "{name}");
    }
}
