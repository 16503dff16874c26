//! The PEM files of a webhook's TLS connections.
//!
//! Constraint: what is wrong with a certificate or a key is found here, not at the first delivery.
//! A client's certificate and key are checked to belong together.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};

use super::Tls;
use super::secret;
use super::section::{Context, Fault, Section};
use super::value::At;

/// Reads `tls`.
pub(super) fn tls(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Tls> {
    let ca_at = section.take("ca");
    let certificate_at = section.take("client_cert");
    let key_at = section.take("client_key");
    let place = section.place.clone();
    section.finish(context);

    let ca = optional(ca_at, |at| {
        let text = pem(at, context, false)?;
        let found = certificates(&text, at, context)?;
        let mut store = rustls::RootCertStore::empty();
        for certificate in found {
            if let Err(error) = store.add(certificate) {
                context.error(
                    &at.place,
                    format!("is not the certificate of an authority: {error}"),
                );
                return None;
            }
        }
        Some(text.into_bytes())
    });
    match (&certificate_at, &key_at) {
        (Some(at), None) => {
            let fault =
                Fault::new("client_cert needs client_key beside it").allowed("both or neither");
            context.error(&at.place, fault);
        }
        (None, Some(at)) => {
            let fault =
                Fault::new("client_key needs client_cert beside it").allowed("both or neither");
            context.error(&at.place, fault);
        }
        _ => {}
    }
    let chain = optional(certificate_at, |at| {
        let text = pem(at, context, false)?;
        let found = certificates(&text, at, context)?;
        Some((text, found))
    });
    let key = optional(key_at, |at| {
        let text = SecretString::from(pem(at, context, true)?);
        match PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()) {
            Ok(key) => Some((text, key)),
            Err(_) => {
                let fault = Fault::new("holds no private key").allowed(
                    "an unencrypted PEM file with a section PRIVATE KEY, RSA PRIVATE KEY or \
                     EC PRIVATE KEY",
                );
                context.error(&at.place, fault);
                None
            }
        }
    });
    let (ca, chain, key) = (ca?, chain?, key?);
    let mut read = Tls {
        ca,
        ..Tls::default()
    };
    if let (Some((certificate_text, chain)), Some((key_text, key))) = (chain, key) {
        let provider = rustls::crypto::ring::default_provider();
        if let Err(error) = CertifiedKey::from_der(chain, key, &provider) {
            let message = format!("client_cert and client_key do not fit together: {error}");
            context.error(&place, message);
            return None;
        }
        read.client_cert = Some(certificate_text.into_bytes());
        read.client_key = Some(key_text);
    }
    Some(read)
}

/// `None` where reading failed, `Some(None)` where there is nothing to read.
fn optional<T>(at: Option<At<'_>>, read: impl FnOnce(&At<'_>) -> Option<T>) -> Option<Option<T>> {
    match at {
        None => Some(None),
        Some(at) => read(&at).map(Some),
    }
}

fn pem(at: &At<'_>, context: &mut Context<'_>, guarded: bool) -> Option<String> {
    let path = at.path(context)?;
    secret::read(&path, &at.place, context, guarded)
}

fn certificates(
    text: &str,
    at: &At<'_>,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        _ => {
            let fault = Fault::new("holds no certificate, or a damaged one")
                .allowed("a PEM file with one or more sections CERTIFICATE");
            context.error(&at.place, fault);
            None
        }
    }
}
