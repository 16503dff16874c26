//! The settings that authenticate a webhook's requests, and the files with their values.

use std::path::PathBuf;

use http::HeaderName;
use secrecy::SecretString;
use url::Url;

/// The setting `auth`, and the files with values that authenticate requests.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// The setting `auth`.
    pub scheme: Option<Auth>,
    /// The values from files, including those of headers and signing secrets.
    pub files: Vec<FileValue>,
}

/// The setting `auth`: the header Authorization of each request.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Bearer` with this token.
    Bearer(SecretString),
    /// `Basic` with a user name and a password.
    Basic {
        /// The user name, without a colon.
        username: SecretString,
        /// The password.
        password: SecretString,
    },
    /// `Bearer` with a token from an authorization server.
    OAuth2(OAuth2),
}

impl Auth {
    /// The key of this kind below `auth` in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Auth::Bearer(_) => "bearer",
            Auth::Basic { .. } => "basic",
            Auth::OAuth2(_) => "oauth2",
        }
    }
}

/// Client credentials of OAuth 2.0 (RFC 6749, section 4.4).
#[derive(Clone, Debug)]
pub struct OAuth2 {
    /// The token endpoint.
    pub token_url: Url,
    /// The id of the client.
    pub client_id: SecretString,
    /// The secret of the client.
    pub client_secret: SecretString,
    /// The requested scope.
    pub scope: Option<String>,
}

/// A value that was read from a file.
#[derive(Clone, Debug)]
pub struct FileValue {
    /// The file.
    pub path: PathBuf,
    /// The value.
    pub text: SecretString,
    /// The setting that has the value.
    pub setting: FileSetting,
}

/// A setting whose value was read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSetting {
    /// A configured header.
    Header(HeaderName),
    /// A signing secret, by its index.
    Secret(usize),
    /// `auth.bearer`.
    Bearer,
    /// `auth.basic.username`.
    Username,
    /// `auth.basic.password`.
    Password,
    /// `auth.oauth2.client_id`.
    ClientId,
    /// `auth.oauth2.client_secret`.
    ClientSecret,
}
