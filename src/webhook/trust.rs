//! Whom a TLS connection trusts, and who it says it is.
//!
//! Constraint: reading the system's certificates takes some ten milliseconds and some hundred
//! kilobytes, so it is done once for all webhooks of a configuration, not once for each; and a
//! system that has none must still send to plain `http:`. Reading them anew with every reload
//! picks up certificates that were renewed meanwhile.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;

use crate::config::Tls;

/// The certificates that the system trusts, with the cryptography that checks them. Cloning it
/// is cheap.
#[derive(Clone, Debug)]
pub struct TrustRoots {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    problems: Arc<[String]>,
}

/// Why a webhook's TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A PEM file does not hold what it should.
    #[error("{setting} is not a PEM file with a {wanted}")]
    Pem {
        /// The setting that names the file.
        setting: &'static str,
        /// What was looked for.
        wanted: &'static str,
        /// Why it was not found.
        source: Option<pem::Error>,
    },
    /// A certificate authority's certificate cannot be used.
    #[error("{setting} holds a certificate that cannot be used")]
    Certificate {
        /// The setting that names the file.
        setting: &'static str,
        /// Why not.
        source: rustls::Error,
    },
    /// The client's certificate and key cannot be used together.
    #[error("tls.client_cert and tls.client_key cannot be used together")]
    Identity {
        /// Why not.
        source: rustls::Error,
    },
    /// One of the pair is missing.
    #[error("tls.client_cert and tls.client_key must be given together")]
    HalfIdentity,
    /// The cryptography does not support what TLS needs.
    #[error("the TLS library cannot be set up")]
    Setup {
        /// Why not.
        source: rustls::Error,
    },
}

impl TrustRoots {
    /// Reads the certificates that the system trusts, or those that `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name. What cannot be read is left out and told by
    /// [`TrustRoots::problems`].
    ///
    /// Reads files, so a program that serves others meanwhile calls it where it may block.
    pub fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let problems = found.errors.iter().map(ToString::to_string);
        Self::new(found.certs, problems.collect())
    }

    /// No certificates: only those that a webhook names in `tls.ca` are trusted.
    pub fn empty() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    fn new(certificates: Vec<CertificateDer<'static>>, mut problems: Vec<String>) -> Self {
        // Named here rather than installed for the whole process, which would be a global.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(certificates);
        if ignored > 0 {
            problems.push(format!(
                "{ignored} of the system's certificates cannot be used"
            ));
        }
        let roots = Arc::new(roots);
        let verifier = match verifier(&roots, &provider) {
            Ok(verifier) => Some(verifier),
            Err(_) => {
                problems.push(
                    "the system has no certificates to trust; install its package of CA \
                     certificates, or name one in tls.ca"
                        .to_owned(),
                );
                None
            }
        };
        Self {
            provider,
            roots,
            verifier,
            problems: problems.into(),
        }
    }

    /// How many certificates are trusted.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// What was wrong when they were read, for the log.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The TLS settings of one webhook: it trusts these roots and its own, and shows its client
    /// certificate if it has one.
    ///
    /// # Errors
    ///
    /// Where the PEM text of a setting cannot be used.
    pub fn client_config(&self, tls: &Tls) -> Result<ClientConfig, TrustError> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| TrustError::Setup { source })?;
        let builder = match (&tls.ca, &self.verifier) {
            (None, Some(verifier)) => builder
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone()),
            (None, None) => builder.with_root_certificates(self.roots.clone()),
            (Some(ca), _) => {
                let mut roots = RootCertStore::clone(&self.roots);
                for certificate in certificates(ca, "tls.ca")? {
                    roots
                        .add(certificate)
                        .map_err(|source| TrustError::Certificate {
                            setting: "tls.ca",
                            source,
                        })?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match (&tls.client_cert, &tls.client_key) {
            (Some(chain), Some(key)) => {
                let chain = certificates(chain, "tls.client_cert")?;
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(
                    |source| TrustError::Pem {
                        setting: "tls.client_key",
                        wanted: "private key",
                        source: Some(source),
                    },
                )?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| TrustError::Identity { source })?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(TrustError::HalfIdentity),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::client::VerifierBuilderError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    Ok(verifier)
}

/// The certificates of a PEM file; at least one.
fn certificates(
    pem: &[u8],
    setting: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let fail = |source| TrustError::Pem {
        setting,
        wanted: "certificate",
        source,
    };
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| fail(Some(source)))?;
    if certificates.is_empty() {
        return Err(fail(None));
    }
    Ok(certificates)
}
