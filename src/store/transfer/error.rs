//! Errors of moving a state to another store, and of using a state during or after its move.

use super::Mark;
use crate::store::error::{Fault, OpenError, StoreError};

/// Why a state cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The target already has another state, and the source was not moved from there.
    #[error(
        "{target} already has another state: use an empty target, or remove that state if nobody needs it. Nothing was changed"
    )]
    Occupied {
        /// The target.
        target: String,
    },
    /// The target is an incomplete copy of another source.
    #[error(
        "{target} has an incomplete copy of {from}: complete that move, or remove the copy. Nothing was changed"
    )]
    OtherCopy {
        /// The target.
        target: String,
        /// The source of the incomplete copy.
        from: String,
    },
    /// The source is an incomplete copy.
    #[error(
        "{origin} is an incomplete copy of {from}: complete that move first. Nothing was changed"
    )]
    Incomplete {
        /// The source.
        origin: String,
        /// The source of the incomplete copy.
        from: String,
    },
    /// The source was moved to another place.
    #[error("the state in {origin} was already moved to {to}. Nothing was changed now")]
    Left {
        /// The source.
        origin: String,
        /// The present place of the state.
        to: String,
    },
    /// Only one of source and configuration has several repositories.
    #[error(
        "the state in {origin} was recorded with the setting `{}`, but the configuration has the setting `{}`, so nothing was changed. To move this state, configure the former setting",
        if *.has_several { "repositories" } else { "repository" },
        if *.has_several { "repository" } else { "repositories" }
    )]
    OtherRecord {
        /// The source.
        origin: String,
        /// Whether the source has several repositories.
        has_several: bool,
    },
    /// The copy differs from the source, or another process is changing one of them.
    #[error(
        "the copied {table} in {target} differ from those in {origin}, so the move is not complete. Is another process changing one of the states? Run the command again"
    )]
    Different {
        /// The source.
        origin: String,
        /// The target.
        target: String,
        /// The table that differs. `rows` if none is known to differ.
        table: &'static str,
    },
    /// One of the states cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One of the states cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Fault {
    /// Returns an error if a state with this mark must not be changed.
    ///
    /// A change must check this within its transaction, unless no other process can move the state.
    /// Otherwise the state may be moved between the check and the change.
    pub(in crate::store) fn of_mark(text: &str) -> Result<(), Self> {
        match serde_json::from_str(text) {
            Ok(Mark::Arrived { .. }) => Ok(()),
            Ok(Mark::Left { to, .. }) => Err(Self::Moved(format!(
                "the state was moved to {to}, so nothing was changed: configure that place (`store`, or `state_dir` without `store`)"
            ))),
            Ok(Mark::Arriving { .. }) | Err(_) => Err(Self::Moved(
                "the state is an incomplete copy, so nothing was changed: complete the move with `project-webhooks migrate-store`"
                    .to_owned(),
            )),
        }
    }
}

impl OpenError {
    /// Returns an error if a daemon or a command must not use a state with this mark.
    pub(in crate::store) fn of_mark(text: &str, location: &str) -> Result<(), Self> {
        let location = location.to_owned();
        match serde_json::from_str(text) {
            Ok(Mark::Arrived { .. }) => Ok(()),
            Ok(Mark::Left { to, .. }) => Err(OpenError::Left { location, to }),
            Ok(Mark::Arriving { from, .. }) => Err(OpenError::Arriving { location, from }),
            Err(_) => Err(OpenError::Arriving {
                location,
                from: "an unknown place".to_owned(),
            }),
        }
    }
}
