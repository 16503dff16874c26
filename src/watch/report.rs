//! Turns reported paths into hints.
//!
//! Constraint: this module does not decide what happened. The layout determines the role of a path.
//! A reported file of a project is opened immediately, up to a limit, so that it can be read even
//! if it is removed.

use std::io;

use super::WatchSettings;
use crate::hint::{Hint, HintSender};
use crate::layout::Cursor;
use crate::observe::Holder;
use crate::repository::Root;

/// Sends hints for reported paths.
pub(super) struct Reporter {
    pub(super) hints: HintSender,
    pub(super) settings: WatchSettings,
    /// The root. It is open only while there is work; see [`Root`].
    pub(super) root: Option<Root>,
    holder: Holder,
}

impl Reporter {
    pub(super) fn new(settings: WatchSettings, hints: HintSender) -> Self {
        Self {
            hints,
            settings,
            root: None,
            holder: Holder::default(),
        }
    }

    /// Opens the root if it is not open.
    pub(super) fn open_root(&mut self) -> io::Result<&Root> {
        let root = match self.root.take() {
            Some(root) => root,
            None => Root::open(&self.settings.root)?,
        };
        Ok(self.root.insert(root))
    }

    /// Sends a hint if this path, which no template matches, is inside a project.
    pub(super) fn activity(&self, path: &str) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let project = self
            .settings
            .layout
            .at(directory)
            .and_then(|cursor| cursor.project());
        if let Some(key) = project {
            self.hints.send_if_room(Hint::Activity { key });
        }
    }

    /// Sends a hint for a path. Does not hold a file open.
    pub(super) fn plain(&self, path: &str, cursor: &Cursor, cause: &str) {
        let key = cursor
            .project()
            .or_else(|| cursor.file().map(|place| place.key));
        let cause = format!("{cause}: {path}");
        self.hints.send(match key {
            Some(key) => Hint::Project {
                key,
                cause,
                file: None,
                unfinished: false,
            },
            None => Hint::Subtree {
                path: path.to_owned(),
                cause,
            },
        });
    }

    /// Sends a hint for a file of a project. Holds the file open if possible.
    pub(super) fn file(&mut self, path: &str, cursor: &Cursor, cause: &str) {
        let Some(place) = cursor.file() else {
            // The entry may be a file where the layout has a directory.
            if cursor.project().is_some() {
                self.plain(path, cursor, cause);
            }
            return;
        };
        let key = place.key.clone();
        // Open even a file that was only linked into place. No report of its close will follow.
        let _ = self.open_root();
        let (held, is_empty) = match &self.root {
            Some(root) => {
                let home = self.settings.layout.directory_of(&key);
                let home = home.as_ref().map(|(home, _)| home.as_str());
                self.holder.hold(root, home, path, place)
            }
            None => (None, false),
        };
        self.hints.send(Hint::Project {
            key,
            cause: format!("{cause}: {path}"),
            file: Some(Box::new((path.to_owned(), held))),
            unfinished: is_empty && cause == "created",
        });
    }
}
