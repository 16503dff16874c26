//! The links: every relative link leads to a file, and every anchor to a heading.

use crate::blocks::{pages, root, text};

/// The text without fenced blocks and code spans, in which nothing is a link.
fn prose(page: &str) -> String {
    let mut is_code = false;
    let text = text(page);
    let lines = text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let joined = lines.collect::<Vec<_>>().join("\n");
    joined.split('`').step_by(2).collect()
}

/// The anchors of the headings, as GitHub derives them.
fn anchors(page: &str) -> Vec<String> {
    anchors_of(page, "#")
}

/// The anchors of the headings that begin with this prefix.
fn anchors_of(page: &str, prefix: &str) -> Vec<String> {
    let mut is_code = false;
    text(page)
        .lines()
        .filter(|line| {
            is_code ^= line.starts_with("```");
            !is_code
        })
        .filter_map(|line| {
            line.trim_start_matches('#')
                .strip_prefix(' ')
                .map(|t| (line, t))
        })
        .filter(|(line, _)| line.starts_with(prefix))
        .map(|(_, title)| {
            title
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut n_checked = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for link in prose(&page).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            n_checked += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let directory = page.rsplit_once('/').map_or("", |(directory, _)| directory);
            let mut steps: Vec<&str> = directory.split('/').filter(|s| !s.is_empty()).collect();
            for step in path.split('/').filter(|step| !step.is_empty()) {
                match step {
                    ".." => assert!(steps.pop().is_some(), "{page}: {target}"),
                    step => steps.push(step),
                }
            }
            let file = match path {
                "" => page.clone(),
                _ => steps.join("/"),
            };
            let is_there = root().join(&file).exists();
            if !is_there || !anchor.is_empty() && !anchors(&file).iter().any(|a| a == anchor) {
                wrong.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(n_checked > 80, "{n_checked} links");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn contents_list_all_sections_in_order() {
    let mut n_checked = 0;
    for page in pages() {
        let prose = prose(&page);
        let Some((_, contents)) = prose.split_once("\nContents: ") else {
            continue;
        };
        let contents = contents.split("\n\n").next().unwrap();
        let listed: Vec<&str> = contents
            .split("](#")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap())
            .collect();
        assert_eq!(listed, anchors_of(&page, "## "), "{page}");
        n_checked += 1;
    }
    assert!(n_checked > 5, "{n_checked} pages");
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = prose("README.md");
    for page in pages() {
        let is_linked = readme.contains(&format!("]({page})"));
        assert!(is_linked || page == "README.md", "{page}");
    }
}
