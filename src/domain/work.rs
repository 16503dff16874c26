//! Counts visited files and projects, so that tests can compare the work for n and for 4n of them.

#[cfg(test)]
thread_local! {
    static VISITED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts one visited file or project. Does nothing outside tests.
#[inline]
pub(crate) fn visit() {
    #[cfg(test)]
    VISITED.with(|visited| visited.set(visited.get() + 1));
}

/// Returns the number of files and projects that `work` visits.
#[cfg(test)]
pub(crate) fn visited_by<T>(work: impl FnOnce() -> T) -> usize {
    let before = VISITED.with(std::cell::Cell::get);
    let _ = work();
    VISITED.with(std::cell::Cell::get) - before
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::infer::{Removals, infer};
    use crate::domain::moves::{Comparison, infer_all};
    use crate::domain::project::{
        ContentHash, Document, FileState, Observed, ObservedFile, Problem, ProjectKey, Recorded,
        Role, Stamp, Unreadable,
    };

    fn file(project: &str, role: Role, number: usize) -> FileState {
        let path = match role {
            Role::Definition | Role::Deleted => format!("o/{project}/project.xml"),
            Role::Published => format!("o/{project}/published/{number}/project.xml"),
            Role::Snapshot => format!("o/{project}/snapshots/{number}.xml"),
        };
        FileState {
            hash: ContentHash::of(format!("{role:?} {number}").as_bytes()),
            path,
            role,
            tag: (role != Role::Definition).then(|| number.to_string()),
            stamp: Stamp {
                inode: number as u64,
                size: 1,
                modified_ns: 1,
                changed_ns: 1,
            },
            read_ns: i64::MAX,
            document: Document::default(),
            owner: String::new(),
        }
    }

    fn files(project: &str, n: usize) -> Vec<FileState> {
        let snapshots = (0..n).map(|number| file(project, Role::Snapshot, number));
        let published = (0..n).map(|number| file(project, Role::Published, number));
        snapshots.chain(published).collect()
    }

    fn observed(files: Vec<FileState>) -> Observed {
        let files: BTreeMap<String, ObservedFile> = files
            .into_iter()
            .map(|file| (file.path.clone(), ObservedFile::Complete(file)))
            .collect();
        Observed {
            files,
            ..Observed::default()
        }
    }

    /// Asserts that four times as many items take at most about four times as many visits.
    fn assert_linear(work: impl Fn(usize) -> usize) {
        let (few, many) = (work(100), work(400));
        assert!(few > 0, "visits are counted");
        assert!(many <= few * 9 / 2, "{few} visits for n, {many} for 4n");
    }

    #[test]
    fn copies_without_a_definition_are_visited_a_few_times() {
        for removals in [Removals::Unconfirmed, Removals::Confirmed] {
            assert_linear(|n| {
                let observed = observed(files("p", n));
                visited_by(|| infer(&Recorded::default(), &observed, removals))
            });
        }
    }

    #[test]
    fn missing_files_and_unreadable_directories_are_visited_a_few_times() {
        assert_linear(|n| {
            let recorded: Recorded = files("p", n).into_iter().collect();
            let unreadable = (0..n).map(|number| Unreadable {
                problem: Problem {
                    path: format!("o/p/snapshots/{number}"),
                    reason: String::new(),
                    line: None,
                    column: None,
                    may_resolve: true,
                },
                hides: [Role::Snapshot].into(),
            });
            let observed = Observed {
                unreadable: unreadable.collect(),
                ..Observed::default()
            };
            visited_by(|| infer(&recorded, &observed, Removals::Confirmed))
        });
    }

    #[test]
    fn the_files_of_a_renamed_project_are_visited_a_few_times() {
        assert_linear(|n| {
            let whole = |project| {
                let mut files = files(project, n);
                files.push(file(project, Role::Definition, 0));
                files
            };
            let comparison = |project: &str, recorded, observed| Comparison {
                key: ProjectKey::new("o", project),
                recorded,
                observed,
                removals: Removals::Unconfirmed,
            };
            let comparisons = [
                comparison(
                    "old",
                    whole("old").into_iter().collect(),
                    Observed::default(),
                ),
                comparison("new", Recorded::default(), observed(whole("new"))),
            ];
            visited_by(|| {
                let conclusions = infer_all(&comparisons, &|_, _| None);
                let mut events = conclusions.iter().flat_map(|one| &one.inference.events);
                assert!(events.all(|event| event.kind.is_opt_in()));
            })
        });
    }

    #[test]
    fn a_long_chain_of_moves_that_wait_is_followed_once() {
        assert_linear(|n| {
            let name = |number: usize| format!("p{number:04}");
            let definition = |number: usize, project: usize| {
                let mut file = file(&name(number), Role::Definition, project);
                file.document.id = Some(format!("id-{project}"));
                file
            };
            // Each project moved to the directory of the next one, and the last one is gone.
            let comparisons = (0..n).map(|number| Comparison {
                key: ProjectKey::new("o", name(number)),
                recorded: [definition(number, number)].into_iter().collect(),
                observed: observed(match number {
                    0 => Vec::new(),
                    _ => vec![definition(number, number - 1)],
                }),
                removals: Removals::Unconfirmed,
            });
            let comparisons: Vec<Comparison> = comparisons.collect();
            visited_by(|| {
                let conclusions = infer_all(&comparisons, &|_, _| None);
                let n_waiting = conclusions.iter().filter(|one| one.moves_to.is_some());
                assert_eq!(n_waiting.count(), n - 1);
            })
        });
    }

    #[test]
    fn copies_of_one_project_in_many_organizations_are_visited_a_few_times() {
        // Either many organizations with one copy each are renamed, or one with all copies.
        let each = |number: usize| (format!("old{number:04}"), format!("new{number:04}"));
        let one = |_: usize| ("old".to_owned(), "new".to_owned());
        let organizations: [&dyn Fn(usize) -> (String, String); 2] = [&each, &one];
        for of in organizations {
            assert_linear(|n| {
                let comparisons = (0..n).flat_map(|number| {
                    let name = format!("p{number:04}");
                    let definition = |organization: &str| {
                        let mut file = file(&name, Role::Definition, 0);
                        file.path = format!("{organization}/{name}/project.xml");
                        file.document.id = Some("of-all".to_owned());
                        file
                    };
                    let (old, new) = of(number);
                    let gone = Comparison {
                        key: ProjectKey::new(old.clone(), &name),
                        recorded: [definition(&old)].into_iter().collect(),
                        observed: Observed::default(),
                        removals: Removals::Unconfirmed,
                    };
                    let arrived = Comparison {
                        key: ProjectKey::new(new.clone(), &name),
                        recorded: Recorded::default(),
                        observed: observed(vec![definition(&new)]),
                        removals: Removals::Unconfirmed,
                    };
                    [gone, arrived]
                });
                let comparisons: Vec<Comparison> = comparisons.collect();
                visited_by(|| {
                    let conclusions = infer_all(&comparisons, &|_, _| None);
                    let n_held = conclusions.iter().filter(|one| one.hold.is_some());
                    assert_eq!(n_held.count(), n);
                })
            });
        }
    }

    #[test]
    fn files_below_a_directory_are_found_without_visiting_all_files() {
        let recorded: Recorded = files("p", 100).into_iter().collect();
        let visited = visited_by(|| {
            assert!(recorded.has_files_below("o/p/published/7"));
            assert!(recorded.has_files_below("o/p"));
            assert!(!recorded.has_files_below("o/p/published/7/project.xml"));
            assert!(!recorded.has_files_below("o/p/snapshots/7"));
        });
        assert_eq!(visited, 0);
    }
}
