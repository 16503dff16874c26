//! Reads the PEM files of a webhook's TLS connections.
//!
//! Constraint: a wrong client certificate or key is an error of the configuration, not of the first
//! delivery. The reader checks that the client's certificate and key belong together, and that the
//! TLS library supports the kind of key.

mod authorities;

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};

use super::reader::{Context, Fault, Mapping};
use super::source;
use super::value::Value;
use super::{ClientIdentity, Tls};

pub(super) fn tls(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<Tls> {
    let [certificate_given, key_given] =
        ["client_cert", "client_key"].map(|key| mapping.given(key));
    match (certificate_given, key_given) {
        (Some(value), None) => {
            let fault = Fault::new("client_cert needs client_key as well");
            context.error(&value.location, fault.allowed("both or neither"));
        }
        (None, Some(value)) => {
            let fault = Fault::new("client_key needs client_cert as well");
            context.error(&value.location, fault.allowed("both or neither"));
        }
        _ => {}
    }
    let ca = mapping.read_optional(context, "ca", authorities::authorities);
    let ca_only = mapping.read(context, "ca_only", Value::boolean);
    if let (Some(true), None, Some(value)) =
        (ca_only, mapping.given("ca"), mapping.given("ca_only"))
    {
        let fault = Fault::new("needs ca as well; without ca, no authority would be trusted");
        context.error(&value.location, fault);
    }
    let identity = identity(mapping, context);
    Some(Tls {
        ca: ca?.unwrap_or_default(),
        ca_only: ca_only?,
        identity: identity?,
    })
}

/// Reads the client's certificate chain and key. Returns `Some(None)` without them.
fn identity(
    mapping: &Mapping<'_>,
    context: &mut Context<'_>,
) -> Option<Option<Arc<ClientIdentity>>> {
    // A command that sends nothing may run as a user who cannot read the key.
    if !context.environment.reads_secrets() {
        return Some(None);
    }
    let chain = mapping.read_optional(context, "client_cert", certificates);
    let key = mapping.read_optional(context, "client_key", private_key);
    let (Some(chain), Some(key)) = (chain?, key?) else {
        return Some(None);
    };
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .map_err(|error| format!("client_cert and client_key cannot be used together: {error}"));
    context.accept(&mapping.location, pair)?;
    Some(Some(Arc::new(ClientIdentity { chain, key })))
}

/// Reads the client's certificate chain.
fn certificates(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = value.path(context)?;
    let text = source::read_text(&path, &mut context.looks);
    let text = context.accept(&value.location, text)?;
    let found: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found.as_deref() {
        Ok([own, ..]) => {
            if let Some(reason) = authorities::unsupported_key(own) {
                context.error(&value.location, reason);
                return None;
            }
            found.ok()
        }
        _ => {
            let fault = Fault::new("contains no certificate, or a damaged one")
                .allowed("a PEM file with one or more sections CERTIFICATE");
            context.error(&value.location, fault);
            None
        }
    }
}

fn private_key(value: &Value<'_>, context: &mut Context<'_>) -> Option<PrivateKeyDer<'static>> {
    let path = value.path(context)?;
    source::warn_if_public(&path, &value.location, context);
    let text = source::read_text(&path, &mut context.looks);
    let text = SecretString::from(context.accept(&value.location, text)?);
    let key = PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()).map_err(|_| {
        Fault::new("contains no private key").allowed(
            "an unencrypted PEM file with a section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY",
        )
    });
    context.accept(&value.location, key)
}
