//! An event as the model compares it.

use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::ContentHash;

/// An event for comparison: the kind, the path and the content.
pub type Happening = (EventKind, String, ContentHash);
