//! Hashes the settings of a webhook.
//!
//! Constraint: the hash depends on the value of every setting of the webhook, and on nothing else.
//! It does not depend on where a value was read from. It does not reveal secrets.

use secrecy::ExposeSecret;

use super::{Auth, BodyFormat, Webhook};

/// Hashes all settings of a webhook, including the values of its secrets.
///
/// The store keeps the hash, so that a restarted daemon finds webhooks whose settings changed.
/// Secrets cannot be computed from a BLAKE3 hash, only guessed. The context string separates this
/// hash from all other hashes of this program. Change the string when the list of settings changes.
pub fn fingerprint(webhook: &Webhook) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("project-webhooks webhook fingerprint 5");
    // Each part begins with its length and most lists with their count, so that different values
    // never hash the same bytes.
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
    let when = webhook.globs.when.iter();
    let filters = when.map(|(parameter, globs)| (parameter.as_str(), globs));
    let filters = [("projects", &webhook.globs.projects)]
        .into_iter()
        .chain(filters);
    part(&count(1 + webhook.globs.when.len()));
    for (name, globs) in filters {
        part(name.as_bytes());
        part(&count(globs.len()));
        for glob in globs {
            part(glob.as_bytes());
        }
    }
    if let Some(names) = &webhook.subscription.repositories {
        part(b"repositories");
        part(&count(names.len()));
        for name in names {
            part(name.as_bytes());
        }
    }
    part(webhook.url.as_str().as_bytes());
    part(webhook.format.as_str().as_bytes());
    if let BodyFormat::Template(template) = &webhook.format {
        part(template.content_type().as_bytes());
        part(template.source().as_bytes());
    }
    part(&count(webhook.headers.len()));
    for (name, value) in &webhook.headers {
        part(name.as_str().as_bytes());
        part(value.as_bytes());
    }
    part(&count(webhook.secrets.len()));
    for secret in &webhook.secrets {
        part(secret.expose_secret().as_bytes());
    }
    let auth = webhook.auth.scheme.as_ref();
    part(auth.map_or("", Auth::as_str).as_bytes());
    for value in auth_values(auth) {
        part(value.as_bytes());
    }
    part(&[u8::from(webhook.signed_headers)]);
    part(&webhook.timeout.as_nanos().to_le_bytes());
    part(&webhook.connect_timeout.as_nanos().to_le_bytes());
    part(&count(webhook.schedule.len()));
    for delay in &webhook.schedule {
        part(&delay.as_nanos().to_le_bytes());
    }
    part(&count(webhook.concurrency));
    part(&[u8::from(webhook.rate.is_some())]);
    if let Some(rate) = webhook.rate {
        part(&rate.n.to_le_bytes());
        part(&rate.per.as_nanos().to_le_bytes());
    }
    let identity = webhook.tls.identity.as_deref();
    let chain = identity.map_or(&[][..], |identity| &identity.chain);
    for certificates in [webhook.tls.ca.as_slice(), chain] {
        part(&count(certificates.len()));
        for certificate in certificates {
            part(certificate);
        }
    }
    part(identity.map_or(&[], |identity| identity.key.secret_der()));
    part(&[u8::from(webhook.tls.ca_only)]);
    part(&[u8::from(webhook.enabled)]);
    *hasher.finalize().as_bytes()
}

/// Returns the values of the setting `auth`.
///
/// Each kind of authentication has a fixed number of values, so the number is not hashed.
fn auth_values(auth: Option<&Auth>) -> Vec<&str> {
    match auth {
        None => Vec::new(),
        Some(Auth::Bearer(token)) => vec![token.expose_secret()],
        Some(Auth::Basic { username, password }) => {
            vec![username.expose_secret(), password.expose_secret()]
        }
        Some(Auth::OAuth2(oauth2)) => vec![
            oauth2.token_url.as_str(),
            oauth2.client_id.expose_secret(),
            oauth2.client_secret.expose_secret(),
            oauth2.scope.as_deref().unwrap_or_default(),
        ],
    }
}
