//! Configurations for the tests of other modules.

use std::path::Path;

use super::{Webhook, WithoutSecrets, load_str};

/// A webhook with `events: '*'` that tries once and has long timeouts.
pub(crate) fn webhook(url: &str) -> Webhook {
    let text = format!(
        "{{ repository: {{ path: /nowhere }}, webhooks: [ {{ name: catalog, events: '*', \
         url: '{url}', timeout: 60s, connect_timeout: 60s, retry: {{ schedule: [0s] }} }} ] }}"
    );
    let loaded = load_str(text.as_bytes(), Path::new("config.yaml"), &WithoutSecrets);
    loaded.unwrap().config.webhooks.remove(0)
}
