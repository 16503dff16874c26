//! What differs between two configurations.
//!
//! Constraint: pure, and silent about secrets. Their values are compared, never returned; a
//! change of one is reported by the name of its setting.

use secrecy::{ExposeSecret, SecretString};

use super::{Config, Repository, Webhook};

/// What a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The names of the webhooks that are new, in the order of the new configuration.
    pub webhooks_added: Vec<String>,
    /// The names of the webhooks that are gone, in the order of the old configuration.
    pub webhooks_removed: Vec<String>,
    /// The webhooks that are in both with different settings, in the order of the new one.
    pub webhooks_changed: Vec<WebhookChange>,
    /// The settings of the repository that changed, as key paths.
    pub repository: Vec<&'static str>,
    /// Whether one of those needs the watches to be set up again and everything to be looked at.
    pub needs_rewatch: bool,
    /// The settings outside the repository and the webhooks that changed, as key paths.
    pub settings: Vec<&'static str>,
    /// The settings that changed and that a running daemon cannot take over, as key paths. A
    /// reload that has any is refused.
    pub needs_restart: Vec<&'static str>,
}

/// A webhook whose settings changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookChange {
    /// Its name.
    pub name: String,
    /// The settings that changed, as keys below the webhook.
    pub fields: Vec<&'static str>,
}

impl Change {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What differs between `old` and `new`.
pub fn between(old: &Config, new: &Config) -> Change {
    let find = |config: &'_ Config, name: &str| -> Option<usize> {
        config
            .webhooks
            .iter()
            .position(|webhook| webhook.name() == name)
    };
    let mut change = Change::default();
    for webhook in &new.webhooks {
        let before = find(old, webhook.name()).and_then(|index| old.webhooks.get(index));
        match before {
            None => change.webhooks_added.push(webhook.name().to_owned()),
            Some(before) => {
                let fields = webhook_fields(before, webhook);
                if !fields.is_empty() {
                    change.webhooks_changed.push(WebhookChange {
                        name: webhook.name().to_owned(),
                        fields,
                    });
                }
            }
        }
    }
    change.webhooks_removed = old
        .webhooks
        .iter()
        .filter(|webhook| find(new, webhook.name()).is_none())
        .map(|webhook| webhook.name().to_owned())
        .collect();
    (change.repository, change.needs_rewatch) = repository_fields(&old.repository, &new.repository);
    change.settings = differing([
        (
            "organizations",
            old.naming.organizations != new.naming.organizations,
        ),
        ("username", old.naming.username != new.naming.username),
        ("network.allow", old.network.allow != new.network.allow),
        ("network.deny", old.network.deny != new.network.deny),
        (
            "retention.delivered",
            old.retention.delivered != new.retention.delivered,
        ),
        ("retention.dead", old.retention.dead != new.retention.dead),
        ("admin.listen", old.admin != new.admin),
        ("log.level", old.log.level != new.log.level),
        ("log.format", old.log.format != new.log.format),
    ]);
    change.needs_restart = differing([("state_dir", old.state_dir != new.state_dir)]);
    change
}

/// The names of what differs.
fn differing<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name)
        .collect()
}

/// The settings that changed, and whether one of them needs new watches.
fn repository_fields(old: &Repository, new: &Repository) -> (Vec<&'static str>, bool) {
    let watched = differing([
        ("repository.path", old.path != new.path),
        (
            "repository.layout",
            old.layout != new.layout || old.templates != new.templates,
        ),
        ("repository.watch", old.watch != new.watch),
        (
            // A file that was too large is read now, or the other way round.
            "repository.max_file_size",
            old.max_file_size != new.max_file_size,
        ),
    ]);
    let needs_rewatch = !watched.is_empty();
    let timed = differing([
        ("repository.settle", old.settle != new.settle),
        ("repository.rescan", old.rescan != new.rescan),
        (
            "repository.poll_interval",
            old.poll_interval != new.poll_interval,
        ),
        (
            "repository.on_first_start",
            old.on_first_start != new.on_first_start,
        ),
    ]);
    (watched.into_iter().chain(timed).collect(), needs_rewatch)
}

fn webhook_fields(old: &Webhook, new: &Webhook) -> Vec<&'static str> {
    differing([
        ("events", old.subscription.events != new.subscription.events),
        ("projects", old.project_globs != new.project_globs),
        ("url", old.url != new.url),
        ("format", old.format != new.format),
        ("headers", old.headers != new.headers),
        ("secret", !same_secrets(&old.secrets, &new.secrets)),
        ("timeout", old.timeout != new.timeout),
        (
            "connect_timeout",
            old.connect_timeout != new.connect_timeout,
        ),
        ("retry.schedule", old.schedule != new.schedule),
        ("concurrency", old.concurrency != new.concurrency),
        ("tls.ca", old.tls.ca != new.tls.ca),
        (
            "tls.client_cert",
            old.tls.client_cert != new.tls.client_cert,
        ),
        (
            "tls.client_key",
            !same_secrets(old.tls.client_key.as_slice(), new.tls.client_key.as_slice()),
        ),
        ("enabled", old.enabled != new.enabled),
    ])
}

fn same_secrets(old: &[SecretString], new: &[SecretString]) -> bool {
    old.iter()
        .map(ExposeSecret::expose_secret)
        .eq(new.iter().map(ExposeSecret::expose_secret))
}

/// A hash over all settings of a webhook, the values of its secrets included.
///
/// It tells, across restarts, whether the configuration of a webhook that was switched off has
/// changed since. It is kept in the store, where the secrets must not be: BLAKE3 does not give
/// them back. The context string keeps it apart from every other hash of this program, and
/// changes with the list of settings.
pub fn fingerprint(webhook: &Webhook) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("project-webhooks webhook fingerprint 2");
    // Each part goes in with its length and each list with its count, so that no two different
    // webhooks can run together into the same bytes.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let count = |length: usize| (length as u64).to_le_bytes();
    part(webhook.name().as_bytes());
    part(&count(webhook.subscription.events.len()));
    for event in &webhook.subscription.events {
        part(event.as_str().as_bytes());
    }
    part(&count(webhook.project_globs.len()));
    for glob in &webhook.project_globs {
        part(glob.as_bytes());
    }
    part(webhook.url.as_str().as_bytes());
    part(webhook.format.as_str().as_bytes());
    part(&count(webhook.headers.len()));
    for (name, value) in &webhook.headers {
        part(name.as_str().as_bytes());
        part(value.as_bytes());
    }
    part(&count(webhook.secrets.len()));
    for secret in &webhook.secrets {
        part(secret.expose_secret().as_bytes());
    }
    part(&webhook.timeout.as_nanos().to_le_bytes());
    part(&webhook.connect_timeout.as_nanos().to_le_bytes());
    part(&count(webhook.schedule.len()));
    for delay in &webhook.schedule {
        part(&delay.as_nanos().to_le_bytes());
    }
    part(&count(webhook.concurrency));
    let key = webhook.tls.client_key.as_ref();
    for pem in [
        webhook.tls.ca.as_deref(),
        webhook.tls.client_cert.as_deref(),
        key.map(|key| key.expose_secret().as_bytes()),
    ] {
        part(&[u8::from(pem.is_some())]);
        part(pem.unwrap_or_default());
    }
    part(&[u8::from(webhook.enabled)]);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::config::load_str;

    const BASE: &str = "
repository: { path: /nowhere/repository, settle: 1s }
state_dir: /nowhere/state
webhooks:
  - { name: one, event: project-publish, url: 'http://127.0.0.1:1/', secret: aaaaaaaaaaaaaaaaaaaaaaaa }
  - { name: two, event: project-delete, url: 'http://127.0.0.1:2/', headers: { X-Token: one } }
";

    fn config(text: &str) -> Config {
        let environment = BTreeMap::new();
        load_str(
            text.as_bytes(),
            Path::new("/nowhere/config.yaml"),
            &environment,
        )
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
    }

    #[test]
    fn equal_configurations_differ_in_nothing() {
        let change = between(&config(BASE), &config(BASE));
        assert!(change.is_empty(), "{change:?}");
    }

    #[test]
    fn each_edit_is_reported_by_the_name_of_its_setting() {
        let cases = [
            ("settle: 1s", "settle: 2s", "repository.settle"),
            (
                "/nowhere/repository",
                "/nowhere/other",
                "repository.path rewatch",
            ),
            ("/nowhere/state", "/nowhere/state2", "restart state_dir"),
            ("name: one", "name: three", "added three removed one"),
            (
                "aaaaaaaaaaaaaaaaaaaaaaaa",
                "bbbbbbbbbbbbbbbbbbbbbbbb",
                "one: secret",
            ),
            ("X-Token: one", "X-Token: two", "two: headers"),
            (
                "event: project-publish",
                "event: snapshot-create",
                "one: events",
            ),
            (
                "'http://127.0.0.1:2/'",
                "'http://127.0.0.1:3/', enabled: false",
                "two: url enabled",
            ),
            ("state_dir", "log: { level: debug }\nstate_dir", "log.level"),
            (
                "state_dir",
                "admin: { listen: '127.0.0.1:1' }\nstate_dir",
                "admin.listen",
            ),
            (
                "state_dir",
                "retention: { dead: 1d }\nstate_dir",
                "retention.dead",
            ),
            ("state_dir", "username: 'value:x'\nstate_dir", "username"),
            (
                "state_dir",
                "network: { allow: [169.254.1.1], deny: [10.0.0.0/8] }\nstate_dir",
                "network.allow network.deny",
            ),
        ];
        for (from, to, expected) in cases {
            let change = between(&config(BASE), &config(&BASE.replacen(from, to, 1)));
            let mut said: Vec<String> = Vec::new();
            said.extend(
                change
                    .webhooks_added
                    .iter()
                    .map(|name| format!("added {name}")),
            );
            said.extend(
                change
                    .webhooks_removed
                    .iter()
                    .map(|name| format!("removed {name}")),
            );
            for changed in &change.webhooks_changed {
                said.push(format!("{}: {}", changed.name, changed.fields.join(" ")));
            }
            said.extend(change.repository.iter().map(|&key| key.to_owned()));
            said.extend(change.needs_rewatch.then(|| "rewatch".to_owned()));
            said.extend(change.settings.iter().map(|&key| key.to_owned()));
            said.extend(
                change
                    .needs_restart
                    .iter()
                    .map(|key| format!("restart {key}")),
            );
            assert_eq!(said.join(" "), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn a_fingerprint_depends_on_every_setting_and_on_nothing_else() {
        let settings = [
            "event: project-delete",
            "event: project-delete, projects: ['a/*']",
            "event: project-delete, projects: ['a/*', 'b/*']",
            "event: project-delete, format: json",
            "event: project-delete, headers: { X: a }",
            "event: project-delete, headers: { X: b }",
            "event: project-delete, headers: { Y: a }",
            "event: project-delete, secret: aaaaaaaaaaaaaaaaaaaaaaaa",
            "event: project-delete, secret: aaaaaaaaaaaaaaaaaaaaaaab",
            "event: project-delete, secret: [aaaaaaaaaaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaaaaaaaaab]",
            "event: project-delete, timeout: 1s",
            "event: project-delete, connect_timeout: 1s",
            "event: project-delete, retry: { schedule: [0s] }",
            "event: project-delete, retry: { schedule: [0s, 0s] }",
            "event: project-delete, concurrency: 1",
            "event: project-delete, enabled: false",
            "events: [project-delete, project-publish]",
        ];
        let fingerprint_of = |setting: &str| {
            let text = format!(
                "repository: {{ path: /nowhere/r }}\nstate_dir: /nowhere/s\nwebhooks:\n  \
                 - {{ name: a, url: 'http://127.0.0.1/', {setting} }}\n"
            );
            config(&text).webhooks.first().map(fingerprint)
        };
        let distinct: BTreeSet<_> = settings.iter().map(|text| fingerprint_of(text)).collect();
        assert_eq!(distinct.len(), settings.len());
        assert_eq!(fingerprint_of(settings[0]), fingerprint_of(settings[0]));
    }
}
