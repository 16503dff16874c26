//! The certificates that TLS connections trust and show.
//!
//! Constraint: reading the system's certificates takes some 10 ms and some 100 KB, so all webhooks
//! of a configuration share one read. Each reload reads again, and so finds renewed certificates.
//! A machine without certificates must still send to plain `http:`.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Tls, Webhook};

/// The authorities that the system trusts, with the cryptography to check them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustRoots {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// The system's reason for having none.
    problem: Option<Arc<str>>,
}

impl TrustRoots {
    /// Reads the system's certificates, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// Reads files, so call it where blocking is allowed.
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

    /// Trusts nothing but the authorities in each webhook's `tls.ca`.
    pub fn empty() -> Self {
        Self {
            // Passed to each configuration, since installing it would be a global.
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: Arc::new(RootCertStore::empty()),
            problem: None,
        }
    }

    /// Returns a warning if some webhooks need the system's certificates and there are none.
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

    /// Makes the TLS settings of one webhook: these roots, its own, and its client certificate.
    ///
    /// # Errors
    ///
    /// When the TLS library refuses a certificate or key, which a valid configuration rules out.
    pub(crate) fn client_config(&self, tls: &Tls) -> Result<ClientConfig, rustls::Error> {
        let mut roots = Arc::clone(&self.roots);
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
