//! Runs `tests/cases/infer/*.yaml`: a record, an observation, and the expected inference.
//!
//! A file is written as three words, `<content> <engineId> <time>`: any word for the content
//! (equal words are equal bytes), the engineId or `-` for none, and the change time. An engineId
//! `-/e1` is none, in a project that keeps `e1` of an earlier definition. The word `invalid` stands for a file that could not be read, and `incomplete` for one that is being written. With the word `deleted` before them, they are the last definition of a deleted project. Paths are those of the default layout, and
//! `<organization>/<project>/definition/project.xml` is a second path of a definition.
//!
//! ```yaml
//! rule: the rule, as a sentence
//! removals: unconfirmed     # or confirmed; or one of the two per project
//! before: { sales/crm/project.xml: A e1 1 }
//! after: { sales/crm/project.xml: A e1 1, sales/crm/snapshots/v1.xml: A e1 2 }
//! unreadable: [sales/crm/published]         # directories that could not be read
//! events: [snapshot-create sales/crm/snapshots/v1.xml A]    # kind, subject, content; in order
//! missing: [sales/crm]                      # projects with an unconfirmed removal
//! moves_to: { sales/crm: sales/new }        # projects that move once that removal is confirmed
//! held: { sales/crm: hr/crm }               # arrived projects that wait, and for what
//! lives_on: { sales/old: sales/crm }        # removed projects that another directory has too
//! moved: { sales/crm: sales/old }           # new key: old key
//! record: { sales/crm/project.xml: A }      # the new record, if it differs from `after`
//! kept: { sales/crm: e1 }                   # engineIds that projects keep, in the new record
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use project_webhooks::domain::infer::Removals;
use project_webhooks::domain::moves::{Comparison, Conclusion, infer_all};
use project_webhooks::domain::project::{
    ContentHash, Document, FileState, KeptIds, Observed, ObservedFile, Problem, ProjectKey,
    Recorded, Role, Stamp, Unreadable,
};
use project_webhooks::domain::shared_ids::Hold;
use project_webhooks::layout::{Layout, ProjectFile};
use serde::Deserialize;

/// The number of cases; a runner that finds none would pass.
const N_CASES: usize = 124;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rule: String,
    removals: RemovalsOf,
    #[serde(default)]
    before: BTreeMap<String, String>,
    #[serde(default)]
    after: BTreeMap<String, String>,
    #[serde(default)]
    unreadable: BTreeSet<String>,
    events: Vec<String>,
    #[serde(default)]
    missing: BTreeSet<String>,
    #[serde(default)]
    moves_to: BTreeMap<String, String>,
    #[serde(default)]
    held: BTreeMap<String, String>,
    #[serde(default)]
    lives_on: BTreeMap<String, String>,
    #[serde(default)]
    removed_with: BTreeMap<String, String>,
    #[serde(default)]
    moved: BTreeMap<String, String>,
    record: Option<BTreeMap<String, String>>,
    #[serde(default)]
    kept: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RemovalsOf {
    All(Word),
    Each(BTreeMap<String, Word>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Unconfirmed,
    Confirmed,
}

impl Case {
    fn removals(&self, key: &ProjectKey) -> Removals {
        let word = match &self.removals {
            RemovalsOf::All(word) => *word,
            RemovalsOf::Each(words) => words[&key.to_string()],
        };
        match word {
            Word::Unconfirmed => Removals::Unconfirmed,
            Word::Confirmed => Removals::Confirmed,
        }
    }

    /// One comparison for each recorded or observed project, as the engine makes them.
    fn comparisons(&self) -> Vec<Comparison> {
        let mut recorded: BTreeMap<ProjectKey, Recorded> = BTreeMap::new();
        let mut observed: BTreeMap<ProjectKey, Observed> = BTreeMap::new();
        for (path, words) in &self.before {
            let file = file(path, words);
            recorded.entry(place(path).key).or_default().put(file);
        }
        for (path, words) in &self.after {
            let sighting = match words.as_str() {
                "invalid" => ObservedFile::Invalid {
                    role: place(path).role,
                    problem: problem(path),
                },
                "incomplete" => ObservedFile::Invalid {
                    role: place(path).role,
                    problem: Problem {
                        line: Some(1),
                        ..problem(path)
                    },
                },
                words => ObservedFile::Complete(file(path, words)),
            };
            let seen = observed.entry(place(path).key).or_default();
            seen.files.insert(path.clone(), sighting);
        }
        for directory in &self.unreadable {
            let names: Vec<&str> = directory.splitn(3, '/').collect();
            let seen = observed.entry(ProjectKey::new(names[0], names[1]));
            seen.or_default().unreadable.push(Unreadable {
                problem: problem(directory),
                hides: layout().at(directory).expect("a directory").roles(),
            });
        }
        let keys: BTreeSet<ProjectKey> = recorded.keys().chain(observed.keys()).cloned().collect();
        keys.into_iter()
            .map(|key| Comparison {
                recorded: recorded.remove(&key).unwrap_or_default(),
                observed: observed.remove(&key).unwrap_or_default(),
                removals: self.removals(&key),
                key,
            })
            .collect()
    }

    /// The expected record: path to content.
    fn record(&self) -> BTreeMap<String, String> {
        let content = |words: &str| match words.strip_prefix(DELETED) {
            Some(words) => format!("{DELETED}{}", first(words)),
            None => first(words).to_owned(),
        };
        self.record
            .as_ref()
            .unwrap_or(&self.after)
            .iter()
            .map(|(path, words)| (path.clone(), content(words)))
            .collect()
    }
}

/// The mark of the last definition of a deleted project.
const DELETED: &str = "deleted ";

fn first(words: &str) -> &str {
    words.split(' ').next().unwrap_or_default()
}

fn layout() -> Layout {
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    Layout::new(
        &texts(&[
            "{organization}/{project}/project.xml",
            "{organization}/{project}/definition/project.xml",
        ]),
        &texts(&[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ]),
        &texts(&[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ]),
    )
    .expect("the layout is valid")
}

fn place(path: &str) -> ProjectFile {
    layout()
        .at(path)
        .and_then(|cursor| cursor.file())
        .unwrap_or_else(|| panic!("{path} is no place of the layout"))
}

fn file(path: &str, words: &str) -> FileState {
    let ProjectFile { role, tag, .. } = place(path);
    let (role, words) = match words.strip_prefix(DELETED) {
        Some(words) => (Role::Deleted, words),
        None => (role, words),
    };
    let parts: Vec<&str> = words.split(' ').collect();
    let [content, engine_id, time] = parts[..] else {
        panic!("{path}: {words:?} is not <content> <engineId> <time>");
    };
    let (engine_id, kept) = engine_id.split_once('/').unwrap_or((engine_id, ""));
    let annotations = (engine_id != "-").then(|| ("engineId".to_owned(), engine_id.to_owned()));
    let kept = Some(kept.to_owned()).filter(|kept| !kept.is_empty());
    let time: i64 = time.parse().expect("a change time");
    FileState {
        path: path.to_owned(),
        role,
        tag,
        stamp: Stamp {
            inode: 1,
            size: 1,
            modified_ns: time,
            changed_ns: time,
        },
        read_ns: time,
        hash: ContentHash::of(content.as_bytes()),
        document: Document {
            annotations: annotations.into_iter().collect(),
            kept: KeptIds {
                engine_id: kept,
                ..KeptIds::default()
            }
            .boxed(),
            ..Document::default()
        },
        owner: "ann".to_owned(),
    }
}

fn problem(path: &str) -> Problem {
    Problem {
        path: path.to_owned(),
        reason: "cannot be read".to_owned(),
        line: None,
        column: None,
        may_resolve: true,
    }
}

/// The outcome, in the words of a case.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<String>,
    missing: BTreeSet<String>,
    moves_to: BTreeMap<String, String>,
    held: BTreeMap<String, String>,
    lives_on: BTreeMap<String, String>,
    removed_with: BTreeMap<String, String>,
    moved: BTreeMap<String, String>,
    record: BTreeMap<String, String>,
    kept: BTreeMap<String, String>,
}

fn outcome(changes: &[Conclusion], content: impl Fn(&FileState) -> String) -> Outcome {
    let pairs = |other: fn(&Conclusion) -> Option<&ProjectKey>| {
        let both = |change| Some((change, other(change)?));
        let pairs = changes.iter().filter_map(both);
        pairs
            .map(|(change, other)| (change.key.to_string(), other.to_string()))
            .collect()
    };
    let waiting = changes
        .iter()
        .filter(|change| !change.inference.missing.is_empty());
    let events = changes.iter().flat_map(|change| &change.inference.events);
    let files = changes
        .iter()
        .flat_map(|change| change.inference.record.files());
    Outcome {
        events: events
            .map(|event| {
                let subject = &event.subject;
                format!("{} {} {}", event.kind, subject.path, content(subject))
            })
            .collect(),
        missing: waiting.map(|change| change.key.to_string()).collect(),
        moves_to: pairs(|change| change.moves_to.as_ref()),
        held: pairs(|change| match change.hold.as_ref()? {
            Hold::Removal(from) | Hold::Unclear(from) => Some(from),
        }),
        lives_on: pairs(|change| change.lives_on_in.as_ref()),
        removed_with: pairs(|change| change.removed_with.as_ref()),
        moved: pairs(|change| change.moved_from.as_ref()),
        record: files
            .map(|file| match file.role {
                Role::Deleted => (file.path.clone(), format!("{DELETED}{}", content(file))),
                _ => (file.path.clone(), content(file)),
            })
            .collect(),
        kept: changes.iter().filter_map(kept).collect(),
    }
}

/// The engineId that a project keeps.
fn kept(change: &Conclusion) -> Option<(String, String)> {
    let definition = change.inference.record.definition.as_ref()?;
    let engine_id = definition.document.kept.as_ref()?.engine_id.clone()?;
    Some((change.key.to_string(), engine_id))
}

#[test]
fn every_case_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/infer");
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .expect("the cases are there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let mut failures = Vec::new();
    for path in &paths {
        let name = path.file_name().expect("a name").to_string_lossy();
        let text = fs::read_to_string(path).expect("a readable case");
        let case: Case =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let words: BTreeMap<ContentHash, String> = case
            .before
            .values()
            .chain(case.after.values())
            .map(|words| first(words.strip_prefix(DELETED).unwrap_or(words)))
            .map(|content| (ContentHash::of(content.as_bytes()), content.to_owned()))
            .collect();
        let content = |file: &FileState| words[&file.hash].clone();
        let looks = case.comparisons();
        let changes = infer_all(&looks, &|file: &FileState, to: &ProjectKey| {
            layout().relocate(&file.path, to)
        });
        for change in &changes {
            for event in &change.inference.events {
                assert_eq!(place(&event.subject.path).key, change.key, "{name}");
            }
            for file in change.inference.record.files() {
                let ProjectFile { key, role, tag, .. } = place(&file.path);
                let role = match file.role {
                    Role::Deleted => Role::Deleted,
                    _ => role,
                };
                assert_eq!(
                    (key, role, &tag),
                    (change.key.clone(), file.role, &file.tag),
                    "{name}"
                );
            }
        }
        let expected = Outcome {
            events: case.events.clone(),
            missing: case.missing.clone(),
            moves_to: case.moves_to.clone(),
            held: case.held.clone(),
            lives_on: case.lives_on.clone(),
            removed_with: case.removed_with.clone(),
            moved: case.moved.clone(),
            record: case.record(),
            kept: case.kept.clone(),
        };
        let actual = outcome(&changes, content);
        if actual != expected {
            let rule = &case.rule;
            failures.push(format!(
                "{name}: {rule}\n expected {expected:#?}\n actual {actual:#?}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(
        paths.len(),
        N_CASES,
        "update N_CASES when a case is added or removed"
    );
}
