//! Configurations for the tests of other modules.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Format, Tls, Webhook};
use crate::domain::event::EventKind;
use crate::domain::route::Subscription;

/// A webhook that subscribes to everything, tries once, and has long timeouts.
pub(crate) fn webhook(url: &str) -> Webhook {
    Webhook {
        subscription: Subscription {
            webhook: "catalog".to_owned(),
            events: BTreeSet::from(EventKind::ALL),
            projects: None,
        },
        project_globs: Vec::new(),
        url: url.parse().unwrap(),
        format: Format::Multipart,
        headers: Vec::new(),
        secrets: Vec::new(),
        timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(60),
        schedule: vec![Duration::ZERO],
        concurrency: 2,
        tls: Tls::default(),
        enabled: true,
    }
}
