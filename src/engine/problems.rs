//! What is recorded and said of files that do not count.
//!
//! Constraint: a tree of a thousand wrong files must not fill the log, and no file may stay out
//! without a word. So the first of a minute are said in full and the rest as one number; and a file
//! that may count by itself in a moment, such as one that is being written, is said when it still
//! does not after a minute. `status` lists all of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tracing::{debug, warn};

use super::Loop;
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::settle::Moment;
use crate::store::Batch;

/// How long a file that may count by itself is waited for.
const LASTS: Duration = Duration::from_secs(60);

/// Files that do not count and may by themselves, that nothing was said of, and since when.
#[derive(Debug, Default)]
pub(super) struct Healing(HashMap<String, Moment>);

impl Healing {
    /// This file does not count; it may have been so before.
    pub(super) fn note(&mut self, path: &str, now: Moment) {
        self.0.entry(path.to_owned()).or_insert(now);
    }

    /// Takes out those that were noted long ago, whether they count meanwhile or not.
    fn due(&mut self, now: Moment) -> HashSet<String> {
        let lasts = |since: &mut Moment| now.saturating_sub(*since) >= LASTS;
        let due = self.0.extract_if(|_, since| lasts(since));
        due.map(|(path, _)| path).collect()
    }
}

impl Loop {
    /// Records what does not count outside any project, or in one project.
    pub(super) fn note_problems(&mut self, key: Option<ProjectKey>, problems: Vec<Problem>) {
        if self.problems.get(&key).map_or(&[][..], Vec::as_slice) == problems {
            return;
        }
        let mut batch = Batch::new(self.clock.now());
        batch.problems.push((key, problems));
        if let Err(error) = self.commit(batch) {
            self.store_failed(&error);
        }
    }

    /// Takes note of what is on record as not counting, and says what is new.
    pub(super) fn remember_problems(&mut self, key: Option<ProjectKey>, problems: Vec<Problem>) {
        for problem in &problems {
            let known = self
                .problems
                .get(&key)
                .is_some_and(|known| known.iter().any(|k| k.path == problem.path));
            if known {
                continue;
            }
            let now = self.clock.moment();
            if problem.may_heal {
                self.healing.note(&problem.path, now);
            } else {
                self.tell_of_problem(problem, now);
            }
        }
        if problems.is_empty() {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key, problems);
        }
        self.status
            .set_problems(self.problems.values().map(Vec::len).sum());
    }

    /// Says that a file does not count, if not too many were said already.
    pub(super) fn tell_of_problem(&mut self, problem: &Problem, now: Moment) {
        self.sum_up(now);
        let Problem { path, reason, .. } = problem;
        if self.repeats.allows(now) {
            warn!(
                path,
                "{path} does not count: {reason}; when that is mended it counts by itself"
            );
        } else {
            debug!(path, "{path} does not count: {reason}");
        }
    }

    /// Now and then: says what has not counted for too long.
    pub(super) fn tell_of_what_lasts(&mut self, now: Moment) {
        self.sum_up(now);
        let due = self.healing.due(now);
        if due.is_empty() {
            return;
        }
        let mut still: Vec<Problem> = self
            .problems
            .values()
            .flatten()
            .filter(|problem| due.contains(&problem.path))
            .cloned()
            .collect();
        still.sort_by(|one, other| one.path.cmp(&other.path));
        // Projects below one directory that cannot be read have the same problem.
        still.dedup_by(|one, other| one.path == other.path);
        for problem in &still {
            self.tell_of_problem(problem, now);
        }
    }

    fn sum_up(&mut self, now: Moment) {
        if let Some(n_files) = self.repeats.take_suppressed(now) {
            warn!(
                n_files,
                "more files do not count than are said one by one; `project-webhooks status` lists \
                 them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_count_in_a_moment_is_due_once_when_it_lasts() {
        let at = Duration::from_secs;
        let mut healing = Healing::default();
        healing.note("a", at(10));
        healing.note("b", at(30));
        // Seen again: it lasts since the first time.
        healing.note("a", at(60));
        assert!(healing.due(at(69)).is_empty());
        assert_eq!(healing.due(at(70)), HashSet::from(["a".to_owned()]));
        assert!(healing.due(at(71)).is_empty());
        assert_eq!(healing.due(at(90)), HashSet::from(["b".to_owned()]));
    }
}
