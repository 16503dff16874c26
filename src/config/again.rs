//! Reads values from files again, such as a token that was replaced.
//!
//! Constraint: while a file is missing or invalid, its previous value stays. Only the values of
//! headers, `secret` and `auth` are read again. All other settings need a reload or a restart.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::headers::signing_key;
use super::types::{Auth, FileSetting, Webhook};
use super::{auth, source};

/// Returns the webhook with new values from its files.
///
/// `None` if no file has a new valid value. Blocks the calling thread while it reads the files.
pub(crate) fn read_again(webhook: &Webhook) -> Option<Webhook> {
    let mut new = webhook.clone();
    let mut has_changed = false;
    for (index, value) in webhook.auth.files.iter().enumerate() {
        let Ok(text) = source::read_value(&value.path) else {
            continue;
        };
        let is_same = text.expose_secret() == value.text.expose_secret();
        if is_same || replace(&mut new, &value.setting, &text).is_none() {
            continue;
        }
        has_changed = true;
        if let Some(value) = new.auth.files.get_mut(index) {
            value.text = text;
        }
    }
    has_changed.then_some(new)
}

/// Replaces the value of a setting. Returns `None` if the new value is invalid.
fn replace(webhook: &mut Webhook, setting: &FileSetting, text: &SecretString) -> Option<()> {
    match setting {
        FileSetting::Header(name) => {
            let mut value = HeaderValue::from_str(text.expose_secret()).ok()?;
            value.set_sensitive(true);
            let mut headers = webhook.headers.iter_mut();
            headers.find(|(known, _)| known == name)?.1 = value;
        }
        FileSetting::Secret(index) => {
            signing_key(text).ok()?;
            *webhook.secrets.get_mut(*index)? = text.clone();
        }
        setting => {
            let found = match (webhook.auth.scheme.as_mut()?, setting) {
                (Auth::Bearer(token), FileSetting::Bearer) => {
                    auth::bearer(text)?;
                    token
                }
                (Auth::Basic { username, .. }, FileSetting::Username) => {
                    auth::is_username(text).then_some(())?;
                    username
                }
                (Auth::Basic { password, .. }, FileSetting::Password) => {
                    auth::is_password(text).then_some(())?;
                    password
                }
                (Auth::OAuth2(oauth2), FileSetting::ClientId) => &mut oauth2.client_id,
                (Auth::OAuth2(oauth2), FileSetting::ClientSecret) => &mut oauth2.client_secret,
                _ => return None,
            };
            *found = text.clone();
        }
    }
    Some(())
}
