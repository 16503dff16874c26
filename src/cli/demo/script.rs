//! What the demo does with files, and which callbacks have to come of it.
//!
//! Constraint: the commands that are printed are what is done, relative to the demo's directory.
//! Each action waits for the callbacks of the one before, so that the record is known when it
//! begins.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::domain::event::EventKind;

/// The definition that all of the demo's files are made of.
const TEMPLATE: &str = include_str!("project.xml");

/// The name of the project that all but two events are about.
pub const SALES: &str = "Sales Insights";
/// The name of the other project.
pub const CAMPAIGNS: &str = "Campaigns";

/// One thing done to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A directory is made, with those above it.
    MakeDirectory(&'static str),
    /// A file is copied.
    Copy(&'static str, &'static str),
    /// A file or directory is moved.
    Move(&'static str, &'static str),
    /// A directory is removed with all that is in it.
    Remove(&'static str),
}

/// The shell's command for it.
impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeDirectory(path) => write!(formatter, "mkdir -p {path}"),
            Step::Copy(from, to) => write!(formatter, "cp {from} {to}"),
            Step::Move(from, to) => write!(formatter, "mv {from} {to}"),
            Step::Remove(path) => write!(formatter, "rm -r {path}"),
        }
    }
}

impl Step {
    /// Does it below `base`.
    ///
    /// # Errors
    ///
    /// Where the system refuses it.
    pub fn perform(&self, base: &Path) -> io::Result<()> {
        match self {
            Step::MakeDirectory(path) => fs::create_dir_all(base.join(path)),
            Step::Copy(from, to) => fs::copy(base.join(from), base.join(to)).map(|_| ()),
            Step::Move(from, to) => fs::rename(base.join(from), base.join(to)),
            Step::Remove(path) => fs::remove_dir_all(base.join(path)),
        }
    }
}

/// What a user does, with which files, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Action {
    /// What the user does, in one line.
    pub title: &'static str,
    /// With which files.
    pub steps: Vec<Step>,
    /// The callbacks that have to come: the event and the name of its project.
    pub callbacks: Vec<(EventKind, &'static str)>,
}

/// The actions in their order; together they lead to all seven events.
pub fn actions() -> Vec<Action> {
    use EventKind::{
        ProjectDelete, ProjectDeleteAndUnpublish, ProjectImport, ProjectImportAny, ProjectPublish,
        SnapshotCreate, SnapshotRestore,
    };
    vec![
        Action {
            title: "Somebody imports a project",
            steps: vec![
                Step::MakeDirectory("repository/marketing/campaigns"),
                Step::Copy(
                    "incoming/campaigns.xml",
                    "repository/marketing/campaigns/project.xml",
                ),
            ],
            callbacks: vec![(ProjectImportAny, CAMPAIGNS)],
        },
        Action {
            title: "Somebody imports the project that one webhook waits for",
            steps: vec![Step::Move(
                "incoming/sales-insights",
                "repository/sales/sales-insights",
            )],
            callbacks: vec![(ProjectImport, SALES), (ProjectImportAny, SALES)],
        },
        Action {
            title: "A snapshot is taken",
            steps: vec![Step::Copy(
                "repository/sales/sales-insights/project.xml",
                "repository/sales/sales-insights/snapshots/before-the-edit.xml",
            )],
            callbacks: vec![(SnapshotCreate, SALES)],
        },
        Action {
            title: "The project is saved, which is none of the seven, and published",
            steps: vec![
                Step::Move(
                    "incoming/sales-insights-edited.xml",
                    "repository/sales/sales-insights/project.xml",
                ),
                Step::Copy(
                    "repository/sales/sales-insights/project.xml",
                    "repository/sales/sales-insights/published/project.xml",
                ),
            ],
            callbacks: vec![(ProjectPublish, SALES)],
        },
        Action {
            title: "The snapshot is restored",
            steps: vec![Step::Copy(
                "repository/sales/sales-insights/snapshots/before-the-edit.xml",
                "repository/sales/sales-insights/project.xml",
            )],
            callbacks: vec![(SnapshotRestore, SALES)],
        },
        Action {
            title: "The project that was never published is deleted",
            steps: vec![Step::Remove("repository/marketing/campaigns")],
            callbacks: vec![(ProjectDelete, CAMPAIGNS)],
        },
        Action {
            title: "The published project is deleted and unpublished: two callbacks",
            steps: vec![Step::Remove("repository/sales/sales-insights")],
            callbacks: vec![(ProjectDelete, SALES), (ProjectDeleteAndUnpublish, SALES)],
        },
    ]
}

/// Writes what the actions begin with: an empty repository with two organizations, and files that
/// come into it.
///
/// # Errors
///
/// Where a file cannot be written.
pub fn prepare(base: &Path) -> io::Result<()> {
    for directory in [
        "repository/marketing",
        "repository/sales",
        "incoming/sales-insights/published",
        "incoming/sales-insights/snapshots",
    ] {
        fs::create_dir_all(base.join(directory))?;
    }
    let sales = "6f1f6f3e-4b0a-4a52-9d0c-8f2f5a6f1c01";
    for (path, name, engine_id, caption) in [
        (
            "incoming/campaigns.xml",
            CAMPAIGNS,
            "0d9a3c1b-27de-4b7e-8a53-5c4be2f0a902",
            CAMPAIGNS,
        ),
        ("incoming/sales-insights/project.xml", SALES, sales, SALES),
        (
            "incoming/sales-insights-edited.xml",
            SALES,
            sales,
            "Sales Insights, edited",
        ),
    ] {
        fs::write(base.join(path), definition(name, engine_id, caption))?;
    }
    Ok(())
}

fn definition(name: &str, engine_id: &str, caption: &str) -> String {
    TEMPLATE
        .replace("@NAME@", name)
        .replace("@ENGINE_ID@", engine_id)
        .replace("@CAPTION@", caption)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_actions_lead_to_all_seven_events_and_can_be_done_in_order() {
        let base = tempfile::tempdir().unwrap();
        prepare(base.path()).unwrap();
        let mut kinds = BTreeSet::new();
        for action in actions() {
            for step in &action.steps {
                step.perform(base.path()).unwrap();
            }
            kinds.extend(action.callbacks.iter().map(|(kind, _)| *kind));
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), EventKind::ALL);
    }

    #[test]
    fn the_definitions_are_complete_and_say_what_they_are() {
        let text = definition(SALES, "an id", "a caption");
        let document = crate::document::parse(text.as_bytes()).unwrap();
        assert_eq!(document.name.as_deref(), Some(SALES));
        assert_eq!(document.engine_id(), Some("an id"));
        assert_eq!(document.version(), None);
    }
}
