//! Makes the HTTP clients and the credentials of a webhook.
//!
//! Constraint: the receiver and the token endpoint have separate clients, because each may need a
//! different proxy. Both have the webhook's TLS settings, network policy and time limits.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use reqwest::dns::Resolve;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::ClientError;
use crate::config::{self, Auth, NetworkPolicy, SystemEnvironment};
use crate::webhook::answer::SECRET_MIN;
use crate::webhook::authorization::Authorization;
use crate::webhook::network::{Destination, GuardedLookup};
use crate::webhook::proxy::Proxies;
use crate::webhook::request::RequestSettings;
use crate::webhook::signature::SigningKey;
use crate::webhook::transport::{Transport, Versions, client_builder};

/// The HTTP/2 flow-control window of an answer, in bytes. Only 16 KiB of an answer are read.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The HTTP/2 flow-control window of a connection, in bytes.
///
/// All answers on the connection share the window.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The settings and the authorization of a webhook's requests.
pub(super) struct Credentials {
    pub(super) webhook: config::Webhook,
    pub(super) settings: Arc<RequestSettings>,
    pub(super) authorization: Authorization,
    /// The secrets that are not in the webhook's requests, for instance signing keys.
    ///
    /// The receiver or the authorization server has these secrets too, and may repeat them.
    pub(super) secrets: Vec<SecretString>,
}

/// Makes the HTTP clients for the receiver and for a token endpoint.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) tls: rustls::ClientConfig,
    pub(super) policy: Arc<NetworkPolicy>,
    pub(super) lookup: Arc<dyn Resolve>,
}

impl Connections {
    /// Makes the HTTP client for a destination. The client offers these HTTP versions.
    pub(super) fn http(
        &self,
        webhook: &config::Webhook,
        to: &Destination,
        versions: Versions,
    ) -> Result<reqwest::Client, ClientError> {
        let setup = |source: reqwest::Error| ClientError::Setup {
            webhook: webhook.name().to_owned(),
            source: source.without_url(),
        };
        let lookup = GuardedLookup::new(Arc::clone(&self.policy), Arc::clone(&self.lookup));
        let mut tls = self.tls.clone();
        if versions == Versions::Http1 {
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let mut builder = client_builder(tls, to)
            .map_err(setup)?
            .dns_resolver(lookup)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .pool_max_idle_per_host(webhook.concurrency);
        if versions == Versions::Http1 {
            builder = builder.http1_only();
        }
        builder.build().map_err(setup)
    }

    /// Makes the credentials of a webhook from its current settings.
    pub(super) fn credentials(
        &self,
        webhook: &config::Webhook,
    ) -> Result<Credentials, ClientError> {
        let keys = SigningKey::parse_all(&webhook.secrets).map_err(|(number, source)| {
            ClientError::Secret {
                webhook: webhook.name().to_owned(),
                number,
                source,
            }
        })?;
        let auth = webhook.auth.scheme.as_ref();
        let authorization = Authorization::new(auth, &self.policy, |oauth2| {
            let of = |webhook: &config::Webhook, url: &Url| {
                let proxies = Proxies::of(&SystemEnvironment);
                Destination::new(url, &proxies, webhook.connect_timeout)
            };
            let to = of(webhook, &oauth2.token_url);
            let (shared, made_for) = (self.clone(), webhook.clone());
            let url = oauth2.token_url.clone();
            let transport = Transport::new(Box::new(move |versions| {
                shared.http(&made_for, &of(&made_for, &url), versions)
            }))?;
            Ok((transport, to))
        })?;
        Ok(Credentials {
            settings: Arc::new(RequestSettings {
                url: (*webhook.url).clone(),
                format: webhook.format.clone(),
                headers: sensitive(&webhook.headers),
                keys,
                signed_headers: webhook.signed_headers,
            }),
            webhook: webhook.clone(),
            authorization,
            secrets: unsent(webhook),
        })
    }
}

/// Returns the secrets of a webhook that its requests do not contain, except short ones.
fn unsent(webhook: &config::Webhook) -> Vec<SecretString> {
    let mut secrets = webhook.secrets.clone();
    if let Some(Auth::OAuth2(oauth2)) = &webhook.auth.scheme {
        secrets.push(oauth2.client_secret.clone());
    }
    secrets.retain(|secret| secret.expose_secret().len() >= SECRET_MIN);
    secrets
}

/// Marks the values of configured headers as sensitive, to hide them in logs.
fn sensitive(headers: &[(HeaderName, HeaderValue)]) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = headers.to_vec();
    for (_, value) in &mut headers {
        value.set_sensitive(true);
    }
    headers
}
