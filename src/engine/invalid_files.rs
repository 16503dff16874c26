//! Keeps the recorded invalid files, and logs new invalid files.
//!
//! Constraint: a thousand invalid files must not fill the log, but a file that stays invalid must
//! be logged or counted. The log has the first five files of each minute, and the number of further
//! files. A file that may become valid, for instance because it is still being written, is logged
//! if it is still invalid after a minute. `status` lists invalid files, up to a maximum number.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tracing::{debug, warn};

use crate::domain::log_limit::LogLimit;
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::settle::Moment;
use crate::error::location;
use crate::store::RecordedProblem;

/// The time after which a file that may become valid is logged.
const LOG_AFTER: Duration = Duration::from_secs(60);

/// The recorded invalid files, and which of them are not logged yet.
#[derive(Debug, Default)]
pub(super) struct InvalidFiles {
    /// The invalid files of each project. `None` is the key of files outside any project.
    by_project: HashMap<Option<ProjectKey>, Vec<Problem>>,
    log_limit: LogLimit,
    /// Unlogged files that may become valid, with the time when each was first invalid.
    not_logged: HashMap<String, Moment>,
}

impl InvalidFiles {
    /// Makes the state from the invalid files that were recorded before the start.
    pub(super) fn recorded_before(problems: Vec<RecordedProblem>) -> Self {
        let mut this = Self::default();
        for recorded in problems {
            this.by_project
                .entry(recorded.key)
                .or_default()
                .push(recorded.problem);
        }
        this
    }

    /// Returns the recorded invalid files of a project.
    ///
    /// For the key `None`, these are the files outside any project.
    pub(super) fn of(&self, key: &Option<ProjectKey>) -> &[Problem] {
        self.by_project.get(key).map_or(&[], Vec::as_slice)
    }

    /// Returns the recorded problems outside any project, at a path and below it.
    pub(super) fn outside_projects_below(&self, path: &str) -> impl Iterator<Item = &Problem> {
        let is_there = move |problem: &&Problem| {
            let rest = problem.path.strip_prefix(path);
            rest.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        // These problems are sorted by path.
        let listed = self.of(&None);
        let first = listed.partition_point(|problem| problem.path.as_str() < path);
        let listed = listed.get(first..).unwrap_or_default().iter();
        let may_follow = move |problem: &&Problem| problem.path.starts_with(path);
        listed.take_while(may_follow).filter(is_there)
    }

    /// The projects with invalid files, of one organization or of all organizations.
    pub(super) fn keys_in(&self, organization: Option<&str>) -> Vec<ProjectKey> {
        let keys = self.by_project.keys().flatten();
        let is_in = |key: &&ProjectKey| organization.is_none_or(|name| key.organization == name);
        keys.filter(is_in).cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.by_project.values().map(Vec::len).sum()
    }

    /// Updates the invalid files of a project after a commit.
    ///
    /// Logs new invalid files, except those that may become valid.
    pub(super) fn recorded(
        &mut self,
        key: Option<ProjectKey>,
        problems: Vec<Problem>,
        now: Moment,
    ) {
        let known = self.by_project.remove(&key).unwrap_or_default();
        let known: HashSet<&str> = known.iter().map(|known| known.path.as_str()).collect();
        for problem in &problems {
            if known.contains(problem.path.as_str()) {
                continue;
            }
            if problem.may_resolve {
                self.not_logged.entry(problem.path.clone()).or_insert(now);
            } else {
                self.log(problem, now);
            }
        }
        if !problems.is_empty() {
            self.by_project.insert(key, problems);
        }
    }

    /// Logs files still invalid after a minute, and the number of suppressed lines.
    pub(super) fn log_lasting(&mut self, now: Moment) {
        self.log_suppressed(now);
        let due = self.take_lasting(now);
        if due.is_empty() {
            return;
        }
        let mut still: Vec<Problem> = self
            .by_project
            .values()
            .flatten()
            .filter(|problem| due.contains(&problem.path))
            .cloned()
            .collect();
        still.sort_by(|one, other| one.path.cmp(&other.path));
        // All projects below an unreadable directory have the same problem. Log it once.
        still.dedup_by(|one, other| one.path == other.path);
        for problem in &still {
            self.log(problem, now);
        }
    }

    /// Takes the unlogged files that were first invalid at least a minute ago.
    ///
    /// Some of them may be valid now.
    fn take_lasting(&mut self, now: Moment) -> HashSet<String> {
        self.not_logged
            .extract_if(|_, since| now.saturating_sub(*since) >= LOG_AFTER)
            .map(|(path, _)| path)
            .collect()
    }

    fn log(&mut self, problem: &Problem, now: Moment) {
        self.log_suppressed(now);
        let (location, reason) = (
            location(&problem.path, problem.line, problem.column),
            &problem.reason,
        );
        let path = &problem.path;
        if self.log_limit.allows(now) {
            warn!(
                path,
                "ignoring {location}: {reason}. It is read again once it is fixed"
            );
        } else {
            debug!(path, "ignoring {location}: {reason}");
        }
    }

    fn log_suppressed(&mut self, now: Moment) {
        if let Some(n_files) = self.log_limit.take_suppressed(now) {
            warn!(
                n_files,
                "ignoring {n_files} more invalid files; `project-webhooks status` lists up to 1000"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(path: &str) -> Problem {
        Problem {
            path: path.to_owned(),
            reason: "not complete".to_owned(),
            line: None,
            column: None,
            may_resolve: true,
        }
    }

    #[test]
    fn a_file_that_may_become_valid_is_logged_once_after_a_minute() {
        let at = Duration::from_secs;
        let mut files = InvalidFiles::default();
        files.recorded(None, vec![problem("a")], at(10));
        files.recorded(None, vec![problem("a"), problem("b")], at(30));
        // The file was valid in between. Its minute still starts at the first observation.
        files.recorded(None, vec![problem("b")], at(50));
        files.recorded(None, vec![problem("a"), problem("b")], at(60));
        assert_eq!(files.count(), 2);
        assert!(files.take_lasting(at(69)).is_empty());
        assert_eq!(files.take_lasting(at(70)), HashSet::from(["a".to_owned()]));
        assert!(files.take_lasting(at(71)).is_empty());
        assert_eq!(files.take_lasting(at(90)), HashSet::from(["b".to_owned()]));
    }
}
