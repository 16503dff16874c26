//! The settings of one webhook.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;

use super::auth::Authentication;
use super::url::ReceiverUrl;
use crate::domain::event::Parameter;
use crate::domain::pace::Rate;
use crate::domain::route::Subscription;
use crate::template::Template;

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The name of the webhook, and which events it receives.
    pub subscription: Subscription,
    /// The texts of the filters' globs.
    pub globs: Globs,
    /// The URL of the receiver.
    pub url: ReceiverUrl,
    /// The format of the request body.
    pub format: BodyFormat,
    /// The headers that the user configured.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// The signing secrets: none, one, or two during a rotation.
    pub secrets: Vec<SecretString>,
    /// The setting `auth`, and all values from files, including those of headers and secrets.
    pub auth: Authentication,
    /// Whether to add a second signature that also covers the event and the parameters.
    pub signed_headers: bool,
    /// The time limit of an attempt, up to the end of the answer.
    pub timeout: Duration,
    /// The time limit for connecting: name resolution, connection, proxy and TLS.
    pub connect_timeout: Duration,
    /// The delay before each attempt.
    ///
    /// Some failures are retried without using up an attempt of this schedule.
    pub schedule: Vec<Duration>,
    /// The maximum number of projects with a request in progress at the same time.
    pub concurrency: usize,
    /// The maximum rate of requests. `None` means no limit.
    pub rate: Option<Rate>,
    /// Certificate authorities, and the client certificate with its key.
    pub tls: Tls,
    /// The setting `enabled`. If it is false, no events are delivered to this webhook.
    pub enabled: bool,
}

impl Webhook {
    /// The unique name of the webhook.
    pub fn name(&self) -> &str {
        &self.subscription.webhook
    }
}

/// The texts of the globs of a webhook's filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs {
    /// The globs of `projects`. Empty if the webhook receives events of all projects.
    pub projects: Vec<String>,
    /// The globs of `when`, for each filtered parameter.
    pub when: Vec<(Parameter, Vec<String>)>,
}

impl Globs {
    /// Returns the globs of `when` by the name of the parameter, for listings.
    pub(crate) fn when_by_name(&self) -> BTreeMap<String, Vec<String>> {
        let named = |(parameter, globs): &(Parameter, Vec<String>)| {
            (parameter.as_str().to_owned(), globs.clone())
        };
        self.when.iter().map(named).collect()
    }
}

/// The format of a request body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// A format that this program defines.
    Fixed(Format),
    /// A template of the user.
    Template(Template),
}

impl BodyFormat {
    /// The name of the template format in the configuration and in listings.
    pub const TEMPLATE: &'static str = "template";

    /// The name of this format in the configuration and in listings.
    pub const fn as_str(&self) -> &'static str {
        match self {
            BodyFormat::Fixed(format) => format.as_str(),
            BodyFormat::Template(_) => Self::TEMPLATE,
        }
    }

    /// The names of all formats, in the order of the documentation.
    pub fn words() -> Vec<&'static str> {
        let fixed = Format::ALL.map(Format::as_str);
        fixed.into_iter().chain([Self::TEMPLATE]).collect()
    }
}

impl From<Format> for BodyFormat {
    fn from(format: Format) -> Self {
        Self::Fixed(format)
    }
}

/// A format of the request body that this program defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `multipart/form-data`.
    Multipart,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// The project.xml as the body, with the parameters in the query string.
    Xml,
    /// `application/json`.
    Json,
    /// CloudEvents 1.0 in HTTP binary mode.
    CloudEvents,
}

impl Format {
    /// All formats, in the order of the documentation.
    pub const ALL: [Format; 5] = [
        Format::Multipart,
        Format::Form,
        Format::Xml,
        Format::Json,
        Format::CloudEvents,
    ];

    /// The name of this format in the configuration and in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Multipart => "multipart",
            Format::Form => "form",
            Format::Xml => "xml",
            Format::Json => "json",
            Format::CloudEvents => "cloudevents",
        }
    }
}

/// The certificates and keys of a webhook's TLS connections.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The certificate authorities of the setting `ca`.
    pub ca: Vec<CertificateDer<'static>>,
    /// Whether only `ca` is trusted, not the system's authorities.
    pub ca_only: bool,
    /// The client's certificate and key.
    pub identity: Option<Arc<ClientIdentity>>,
}

/// A client certificate with its key. Its `Debug` output omits the key.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate chain. The client's own certificate is first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}
