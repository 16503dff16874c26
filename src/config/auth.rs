//! The setting `auth` of a webhook.
//!
//! Constraint: a value that cannot be sent is an error of the configuration, not of the first
//! delivery. Secrets are never printed.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::headers::warn_of_plain_secret;
use super::reader::{Context, Fault, Mapping};
use super::source;
use super::types::{Auth, FileSetting, FileValue, OAuth2};
use super::value::Value;
use super::webhook::{is_open, url};

/// The keys below `auth`, one for each kind of authentication.
const KINDS: [&str; 3] = ["bearer", "basic", "oauth2"];

/// Reads the setting. Values from files are also added to `files`.
pub(super) fn auth(
    value: &Value<'_>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Auth> {
    let n_errors = context.errors.len();
    let mapping = value.mapping(context)?;
    let given: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| mapping.given(kind).is_some())
        .collect();
    match given.as_slice() {
        ["bearer"] => mapping.read(context, "bearer", |value, context| {
            let token = secret(value, FileSetting::Bearer, files, context)?;
            let is_valid = bearer(&token).is_some();
            let fault = Fault::new("the token cannot be sent in a header")
                .allowed("visible ASCII characters without spaces");
            context.accept(&value.location, is_valid.then_some(()).ok_or(fault))?;
            Some(Auth::Bearer(token))
        }),
        ["basic"] => basic(&mapping.mapping(context, "basic")?, files, context),
        ["oauth2"] => oauth2(&mapping.mapping(context, "oauth2")?, files, context),
        [] => {
            // If there is a new error, `mapping` has reported a wrong key.
            if context.errors.len() == n_errors {
                let fault = Fault::new("has no kind of authentication");
                context.error(&value.location, fault.allowed(KINDS.join(", ")));
            }
            None
        }
        several => {
            let message = format!(
                "has {}, but a webhook may have only one of them",
                several.join(" and ")
            );
            context.error(&value.location, Fault::new(message));
            None
        }
    }
}

fn basic(
    mapping: &Mapping<'_>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Auth> {
    let name = mapping.read(context, "username", |value, context| {
        let name = secret(value, FileSetting::Username, files, context)?;
        let fault =
            "the user name contains a colon or a control character, which Basic does not allow";
        context.accept(
            &value.location,
            is_username(&name).then_some(name).ok_or(fault),
        )
    });
    let password = mapping.read(context, "password", |value, context| {
        let password = secret(value, FileSetting::Password, files, context)?;
        let fault = "the password contains a control character, which Basic does not allow";
        context.accept(
            &value.location,
            is_password(&password).then_some(password).ok_or(fault),
        )
    });
    Some(Auth::Basic {
        username: name?,
        password: password?,
    })
}

fn oauth2(
    mapping: &Mapping<'_>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Auth> {
    let token_url = mapping.read(context, "token_url", |value, context| {
        let url = value.parsed(context, |text| url(text, "client_id and client_secret"))?;
        if is_open(&url) {
            let message = "sends the client's secret over http://, so every network on the way can \
                           read the secret";
            context.warning(&value.location, message);
        }
        Some(url)
    });
    let client_id = mapping.read(context, "client_id", |value, context| {
        secret(value, FileSetting::ClientId, files, context)
    });
    let client_secret = mapping.read(context, "client_secret", |value, context| {
        secret(value, FileSetting::ClientSecret, files, context)
    });
    let scope = mapping.read_optional(context, "scope", |value, context| {
        value.parsed(context, |text| {
            // RFC 6749, section 3.3.
            let is_token = |token: &str| {
                let is_allowed = |byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
                !token.is_empty() && token.bytes().all(is_allowed)
            };
            let is_valid = text.split(' ').all(is_token);
            let fault = || Fault::not_allowed("is not a scope");
            is_valid.then(|| text.to_owned()).ok_or_else(fault)
        })
    });
    Some(Auth::OAuth2(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        scope: scope?,
    }))
}

/// Reads a value of `auth`. A value from a file is also added to `files`.
///
/// Warns about a secret in a configuration file that every user of the machine can read.
fn secret(
    value: &Value<'_>,
    setting: FileSetting,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<SecretString> {
    let sourced = source::read(value, context)?;
    let is_secret = !matches!(setting, FileSetting::Username | FileSetting::ClientId);
    if sourced.is_plain && is_secret {
        warn_of_plain_secret(&value.location, context);
    }
    if let Some(path) = sourced.file {
        files.push(FileValue {
            path,
            text: sourced.text.clone(),
            setting,
        });
    }
    Some(sourced.text)
}

/// Makes the value of the header `Authorization` from a token.
///
/// `None` if the token has a character that is not visible ASCII.
pub(crate) fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether Basic authentication allows this user name (RFC 7617, section 2).
pub(super) fn is_username(name: &SecretString) -> bool {
    is_password(name) && !name.expose_secret().contains(':')
}

/// Whether Basic authentication allows this password.
pub(super) fn is_password(password: &SecretString) -> bool {
    !password.expose_secret().contains(char::is_control)
}
