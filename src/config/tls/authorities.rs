//! Reads the certificate authorities of `tls.ca`, which may be a large bundle.
//!
//! Constraint: a bad certificate does not make the bundle invalid. The reader ignores the
//! certificate with a warning. A file without any usable certificate is an error.

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::reader::{Context, Fault};
use crate::config::source;
use crate::config::value::Value;

/// The largest bundle, in bytes.
///
/// A bundle of all public authorities has 200 to 300 KB.
const BUNDLE_MAX: u64 = 8 * 1024 * 1024;

/// The maximum number of certificates that a message lists.
const LISTED_MAX: usize = 5;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const LABEL: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Unsupported kinds of keys that messages name: the OID in DER, and the name.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        "on the curve P-521",
    ),
    (&[0x06, 0x03, 0x2b, 0x65, 0x71], "of the kind Ed448"),
    (
        &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01],
        "of the kind DSA",
    ),
];

/// A CERTIFICATE section of a PEM file.
struct Section<'a> {
    /// The number of its first line, from 1.
    line: usize,
    bytes: &'a [u8],
}

/// Reads the certificates of a bundle. Warns of certificates that it ignores.
pub(super) fn authorities(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = value.path(context)?;
    let bytes = source::read_bytes(&path, BUNDLE_MAX, &mut context.looks);
    let bytes = context.accept(&value.location, bytes)?;
    let mut found = Vec::new();
    let mut left_out = Vec::new();
    for (index, section) in sections(&bytes).iter().enumerate() {
        match certificate(section.bytes) {
            Ok(certificate) => found.push(certificate),
            Err(reason) => {
                let (number, line) = (index + 1, section.line);
                left_out.push(format!("certificate {number} on line {line} {reason}"));
            }
        }
    }
    let n_left_out = left_out.len();
    if n_left_out > LISTED_MAX {
        left_out.truncate(LISTED_MAX);
        left_out.push(format!("and {} more", n_left_out - LISTED_MAX));
    }
    let reasons = left_out.join("; ");
    if found.is_empty() {
        let fault = if n_left_out == 0 {
            Fault::new("contains no certificate")
                .allowed("a PEM file with one or more sections CERTIFICATE")
        } else {
            Fault::new(format!(
                "contains no certificate that can be used: {reasons}"
            ))
        };
        context.error(&value.location, fault);
        return None;
    }
    if n_left_out > 0 {
        let what = if n_left_out == 1 {
            "certificate is"
        } else {
            "certificates are"
        };
        let message = format!("{n_left_out} {what} ignored: {reasons}");
        context.warning(&value.location, message);
    }
    Some(found)
}

/// Splits a PEM file into its CERTIFICATE sections.
///
/// The PEM reader of the TLS library would join a section without an end to the next section.
fn sections(bytes: &[u8]) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    // The section that has not ended: the number of its first line, the offset of its first byte,
    // and whether it is a certificate.
    let mut open: Option<(usize, usize, bool)> = None;
    let mut start = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let end = start + line.len();
        let close = if line.starts_with(BEGIN) {
            open.replace((index + 1, start, line.starts_with(LABEL)))
                .map(|section| (section, start))
        } else if line.starts_with(END) {
            open.take().map(|section| (section, end))
        } else {
            None
        };
        sections.extend(close.and_then(|(section, end)| cut(section, bytes, end)));
        start = end;
    }
    sections.extend(open.and_then(|section| cut(section, bytes, bytes.len())));
    sections
}

fn cut(
    (line, start, is_certificate): (usize, usize, bool),
    bytes: &[u8],
    end: usize,
) -> Option<Section<'_>> {
    let bytes = bytes.get(start..end)?;
    is_certificate.then_some(Section { line, bytes })
}

/// Parses the certificate of an authority.
///
/// An error is a predicate for a message, such as "is damaged".
fn certificate(section: &[u8]) -> Result<CertificateDer<'static>, String> {
    let is_damaged = |_| "is damaged".to_owned();
    let certificate =
        CertificateDer::from_pem_slice(section).map_err(|_| "is damaged".to_owned())?;
    RootCertStore::empty()
        .add(certificate.clone())
        .map_err(is_damaged)?;
    match unsupported_key(&certificate) {
        Some(reason) => Err(reason),
        None => Ok(certificate),
    }
}

/// Returns why the TLS library does not support the key of a certificate.
///
/// `None` if the library supports the key, or cannot read the certificate.
pub(super) fn unsupported_key(certificate: &CertificateDer<'_>) -> Option<String> {
    let mut store = RootCertStore::empty();
    // The callers report a certificate that the library cannot read.
    store.add(certificate.clone()).ok()?;
    let key: &[u8] = store.roots.first()?.subject_public_key_info.as_ref();
    // The bytes begin with the algorithm, a DER sequence. Supported algorithms are shorter than 128
    // bytes, so that their length takes one byte.
    let (_, length, rest) = match key {
        [tag, length, rest @ ..] => (tag, usize::from(*length), rest),
        _ => return None,
    };
    let algorithm = rest.get(..length)?;
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let is_supported = |known: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        known.public_key_alg_id().as_ref() == algorithm
    };
    if algorithms.iter().any(is_supported) {
        return None;
    }
    let name = UNSUPPORTED
        .iter()
        .find(|(oid, _)| algorithm.windows(oid.len()).any(|window| window == *oid));
    let kind = name.map_or("of a kind", |(_, name)| name);
    let which = if name.is_some() { ", which" } else { " that" };
    Some(format!("has a key {kind}{which} is not supported"))
}
