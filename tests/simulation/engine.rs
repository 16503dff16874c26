//! What the model compares.

use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::ContentHash;

/// An event as it is compared: what happened, to which file, with which bytes.
pub type Happening = (EventKind, String, ContentHash);
