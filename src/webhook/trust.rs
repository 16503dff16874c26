//! Makes the TLS settings: the authorities to trust and the client certificate.
//!
//! Constraint: reading the system's certificates takes about 10 ms and 100 KB. So all webhooks of a
//! configuration share the certificates. Each reload reads them again, because they may have
//! changed. A machine without certificates must still send to `http://` URLs.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Tls, Webhook};

/// The authorities that the system trusts, and the cryptographic provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustRoots {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// Why some of the system's certificates cannot be read. `None` without a problem.
    problem: Option<Arc<str>>,
}

impl TrustRoots {
    /// Reads the system's certificates.
    ///
    /// If `SSL_CERT_FILE` or `SSL_CERT_DIR` is set, reads those certificates instead. Reading files
    /// blocks the calling thread.
    pub(crate) fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Self {
            problem: found.errors.first().map(|error| error.to_string().into()),
            roots: Arc::new(roots),
            ..Self::empty()
        }
    }

    /// Makes a value without authorities. A webhook then trusts only its own `tls.ca`.
    pub fn empty() -> Self {
        Self {
            // Each TLS configuration gets the provider, because installing a default would change
            // global state.
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: Arc::new(RootCertStore::empty()),
            problem: None,
        }
    }

    /// Returns a warning if a webhook needs system certificates, but none were read.
    pub(crate) fn warning(&self, webhooks: &[Webhook]) -> Option<String> {
        if !self.roots.is_empty() {
            return None;
        }
        let needing: Vec<&str> = webhooks
            .iter()
            .filter(|webhook| webhook.enabled)
            .filter(|webhook| webhook.url.scheme() == "https" && webhook.tls.ca.is_empty())
            .map(Webhook::name)
            .collect();
        if needing.is_empty() {
            return None;
        }
        let problem = self.problem.as_deref();
        Some(format!(
            "this machine has no CA certificates{}, so deliveries to {} will fail; install the \
             package ca-certificates, or set tls.ca",
            problem.map_or_else(String::new, |problem| format!(" ({problem})")),
            needing.join(", ")
        ))
    }

    /// Makes the TLS settings of one webhook.
    ///
    /// They trust the system's authorities (unless `tls.ca_only` is set) and the webhook's
    /// `tls.ca`. They contain the webhook's client certificate.
    ///
    /// # Errors
    ///
    /// The TLS library rejects a certificate or key. A valid configuration does not cause this.
    pub(crate) fn client_config(&self, tls: &Tls) -> Result<ClientConfig, rustls::Error> {
        let mut roots = if tls.ca_only {
            Arc::new(RootCertStore::empty())
        } else {
            Arc::clone(&self.roots)
        };
        for certificate in &tls.ca {
            Arc::make_mut(&mut roots).add(certificate.clone())?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match tls.identity.as_deref() {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
