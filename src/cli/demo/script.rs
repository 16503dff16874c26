//! The demo's actions on files, and the callbacks that each must cause.
//!
//! Constraint: the demo runs exactly the commands that it prints, in its own directory. Each
//! action waits for the callbacks of the previous action, so that the recorded state is known.

use std::fs;
use std::io;
use std::path::Path;

use crate::domain::event::EventKind::{
    self, ProjectDelete, ProjectDeleteAndUnpublish, ProjectImport, ProjectImportAny, ProjectMove,
    ProjectPublish, ProjectSave, ProjectUnpublish, SnapshotCreate, SnapshotDelete, SnapshotRestore,
};

/// The template of every project.xml in the demo.
const TEMPLATE: &str = include_str!("project.xml");

const SALES: &str = "Sales Insights";
const CAMPAIGNS: &str = "Campaigns";

/// An expected callback: its event, and the name of its project.
pub(super) type Expected = (EventKind, &'static str);

/// A user's action, its commands, and its callbacks.
#[derive(Clone, Copy)]
pub(super) struct Action {
    pub(super) title: &'static str,
    pub(super) commands: &'static [&'static str],
    pub(super) callbacks: &'static [Expected],
}

/// Returns the actions in order. Together they cause the seven events, or all events.
pub(super) fn actions(all: bool) -> Vec<Action> {
    let [
        import,
        import_selected,
        snapshot,
        publish,
        restore,
        deletes @ ..,
    ] = ACTIONS;
    let mut actions = vec![import, import_selected, snapshot];
    if all {
        actions.push(Action {
            title: "Somebody saves the project and publishes it",
            callbacks: &[(ProjectSave, SALES), (ProjectPublish, SALES)],
            ..publish
        });
        actions.push(restore);
        actions.extend(MORE);
    } else {
        actions.extend([publish, restore]);
    }
    actions.extend(deletes);
    actions
}

/// The actions for the events that `"*"` does not include.
///
/// One of these events, `ProjectSave`, has no action here: [`actions`] adds its callback to the
/// first action that publishes.
const MORE: [Action; 5] = [
    Action {
        title: "Somebody publishes another version",
        commands: &[
            "mkdir -p repository/sales/sales-insights/published/draft",
            "cp repository/sales/sales-insights/project.xml repository/sales/sales-insights/published/draft/project.xml",
        ],
        callbacks: &[(ProjectPublish, SALES)],
    },
    Action {
        title: "Somebody unpublishes that version",
        commands: &["rm -r repository/sales/sales-insights/published/draft"],
        callbacks: &[(ProjectUnpublish, SALES)],
    },
    Action {
        title: "Somebody deletes the snapshot",
        commands: &["rm repository/sales/sales-insights/snapshots/before-the-edit.xml"],
        callbacks: &[(SnapshotDelete, SALES)],
    },
    Action {
        title: "Somebody renames the other project",
        commands: &["mv repository/marketing/campaigns repository/marketing/spring"],
        callbacks: &[(ProjectMove, CAMPAIGNS)],
    },
    Action {
        title: "Somebody renames it back",
        commands: &["mv repository/marketing/spring repository/marketing/campaigns"],
        callbacks: &[(ProjectMove, CAMPAIGNS)],
    },
];

/// The actions that cause the seven events.
const ACTIONS: [Action; 7] = [
    Action {
        title: "Somebody imports a project",
        commands: &[
            "mkdir -p repository/marketing/campaigns",
            "cp incoming/campaigns.xml repository/marketing/campaigns/project.xml",
        ],
        callbacks: &[(ProjectImportAny, CAMPAIGNS)],
    },
    Action {
        title: "Somebody imports a project that the webhook for Project Import selects",
        commands: &["mv incoming/sales-insights repository/sales/sales-insights"],
        callbacks: &[(ProjectImport, SALES), (ProjectImportAny, SALES)],
    },
    Action {
        title: "Somebody takes a snapshot",
        commands: &[
            "cp repository/sales/sales-insights/project.xml repository/sales/sales-insights/snapshots/before-the-edit.xml",
        ],
        callbacks: &[(SnapshotCreate, SALES)],
    },
    Action {
        title: "Somebody saves the project, which is none of the seven events, and publishes it",
        commands: &[
            "mv incoming/sales-insights-edited.xml repository/sales/sales-insights/project.xml",
            "cp repository/sales/sales-insights/project.xml repository/sales/sales-insights/published/project.xml",
        ],
        callbacks: &[(ProjectPublish, SALES)],
    },
    Action {
        title: "Somebody restores the snapshot",
        commands: &[
            "cp repository/sales/sales-insights/snapshots/before-the-edit.xml repository/sales/sales-insights/project.xml",
        ],
        callbacks: &[(SnapshotRestore, SALES)],
    },
    Action {
        title: "Somebody deletes the project that was never published",
        commands: &["rm -r repository/marketing/campaigns"],
        callbacks: &[(ProjectDelete, CAMPAIGNS)],
    },
    Action {
        title: "Somebody deletes the published project, which causes two events",
        commands: &["rm -r repository/sales/sales-insights"],
        callbacks: &[(ProjectDelete, SALES), (ProjectDeleteAndUnpublish, SALES)],
    },
];

/// Runs the command of an action in the directory `base`.
pub(super) fn run(command: &str, base: &Path) -> io::Result<()> {
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["mkdir", "-p", path] => fs::create_dir_all(base.join(path)),
        ["cp", from, to] => fs::copy(base.join(from), base.join(to)).map(|_| ()),
        ["mv", from, to] => fs::rename(base.join(from), base.join(to)),
        ["rm", path] => fs::remove_file(base.join(path)),
        ["rm", "-r", path] => fs::remove_dir_all(base.join(path)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Makes an empty repository with two organizations, and the files to import.
pub(super) fn prepare(base: &Path) -> io::Result<()> {
    for directory in [
        "repository/marketing",
        "repository/sales",
        "incoming/sales-insights/published",
        "incoming/sales-insights/snapshots",
    ] {
        fs::create_dir_all(base.join(directory))?;
    }
    let sales = "6f1f6f3e-4b0a-4a52-9d0c-8f2f5a6f1c01";
    let campaigns = "0d9a3c1b-27de-4b7e-8a53-5c4be2f0a902";
    for (path, name, id, caption) in [
        ("campaigns.xml", CAMPAIGNS, campaigns, CAMPAIGNS),
        ("sales-insights/project.xml", SALES, sales, SALES),
        ("sales-insights-edited.xml", SALES, sales, "An edited one"),
    ] {
        let text = TEMPLATE.replace("@NAME@", name).replace("@ENGINE_ID@", id);
        let text = text.replace("@CAPTION@", caption);
        fs::write(base.join("incoming").join(path), text)?;
    }
    Ok(())
}
