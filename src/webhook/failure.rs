//! Describes why a request got no answer, for the log and for listings.
//!
//! Constraint: the description is one line, and says how to fix a known problem. It omits the
//! query, user name and password of the URL, which may be secrets.

use std::error::Error;
use std::io;
use std::iter::successors;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

use super::network::{Destination, ResolveError};

/// Describes the error of a request to this destination.
pub(super) fn describe(error: reqwest::Error, to: &Destination) -> String {
    // Remove the URL, because the library would print it with its query.
    let error = error.without_url();
    let causes: Vec<&(dyn Error + 'static)> = causes(&error).collect();
    if let Some(tls) = find::<rustls::Error>(&causes) {
        return tls_failure(tls, to);
    }
    if let Some(resolving) = find::<ResolveError>(&causes) {
        return one_line(&resolve_failure(resolving, to));
    }
    let io = find::<io::Error>(&causes);
    // A timeout of the operating system has an error number. A timeout of this client has none.
    let is_system = io.is_some_and(|error| error.raw_os_error().is_some());
    if error.is_connect() && error.is_timeout() && !is_system {
        return connecting_timed_out(to);
    }
    if let Some(text) = io.and_then(|error| io_failure(error, to)) {
        return text;
    }
    // For any other error, list the causes. The outer errors only say that the request failed.
    let mut parts: Vec<String> = Vec::new();
    for cause in causes.iter().filter(|cause| !cause.is::<reqwest::Error>()) {
        let text = cause.to_string();
        let is_repeated = parts.iter().any(|part| part.contains(&text));
        if !text.starts_with("client error (") && !is_repeated {
            parts.push(text);
        }
    }
    if parts.is_empty() {
        parts.push(error.to_string());
    }
    one_line(&format!("{} ({to})", parts.join(": ")))
}

/// Whether the server requires HTTP/1.1.
pub(super) fn requires_http_1(error: &reqwest::Error) -> bool {
    let causes: Vec<&(dyn Error + 'static)> = causes(error).collect();
    find::<h2::Error>(&causes)
        .is_some_and(|error| error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED))
}

/// Whether the server closed an open connection.
///
/// During a large upload, the server has then probably refused the request. Its answer may be lost.
pub(super) fn is_closed_during_upload(error: &reqwest::Error) -> bool {
    let causes: Vec<&(dyn Error + 'static)> = causes(error).collect();
    let is_closed = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        )
    };
    let is_incomplete =
        find::<hyper::Error>(&causes).is_some_and(hyper::Error::is_incomplete_message);
    let is_cut_off = find::<io::Error>(&causes).is_some_and(is_closed);
    !error.is_connect() && (is_incomplete || is_cut_off)
}

/// Describes a timeout while connecting.
fn connecting_timed_out(to: &Destination) -> String {
    let bound = humantime::format_duration(to.connect_timeout);
    let setting = if to.has_settings {
        " (connect_timeout)"
    } else {
        ""
    };
    format!("timed out after {bound} connecting to {to}{setting}")
}

fn resolve_failure(error: &ResolveError, to: &Destination) -> String {
    let proxy = to.proxy_named(error.name());
    let whose = proxy.as_deref().unwrap_or(&to.host);
    match error {
        ResolveError::Lookup { source, .. } => {
            let reason = causes(&**source).last().map(ToString::to_string);
            let reason = reason.unwrap_or_default();
            format!("cannot resolve the host name of {whose}: {reason}")
        }
        ResolveError::Nothing { .. } => {
            format!("cannot resolve the host name of {whose}: it has no address")
        }
        ResolveError::Denied { source, .. } => to.denied(proxy.as_deref(), source),
    }
}

/// Lists an error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| cause(error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        // If an I/O error wraps another error, `source` skips the wrapped one.
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

fn find<'a, E: Error + 'static>(causes: &[&'a (dyn Error + 'static)]) -> Option<&'a E> {
    causes.iter().find_map(|cause| cause.downcast_ref::<E>())
}

fn io_failure(error: &io::Error, to: &Destination) -> Option<String> {
    let what = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "the connection was closed",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::TimedOut => "the connection timed out",
        _ => return None,
    };
    Some(format!("{what} ({to})"))
}

fn tls_failure(error: &rustls::Error, to: &Destination) -> String {
    let host = &to.host;
    let text = match error {
        rustls::Error::InvalidCertificate(reason) => certificate_failure(reason, to),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate,
        ) => {
            let advice = match to.has_settings {
                true => "; set tls.client_cert and tls.client_key",
                false => ", which `listen` cannot send",
            };
            format!("{host} requires a client certificate{advice}")
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown,
        ) => format!("{host} does not accept the client certificate: {error}"),
        rustls::Error::AlertReceived(_) => format!("{host} rejected the TLS handshake: {error}"),
        rustls::Error::InvalidMessage(_) => {
            format!("{host} does not speak TLS; should the url begin with http://? ({error})")
        }
        other => format!("TLS with {host} failed: {other}"),
    };
    one_line(&text)
}

fn certificate_failure(reason: &CertificateError, to: &Destination) -> String {
    let host = &to.host;
    match reason {
        CertificateError::Expired => format!("the certificate of {host} has expired"),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate of {host} expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => {
            format!("the certificate of {host} is not valid yet; is the clock right?")
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of {host} is not valid before {}; is the clock right?",
            date(*not_before)
        ),
        CertificateError::UnknownIssuer => {
            let authorities = match to.has_settings {
                true => "tls.ca",
                false => "those of the system",
            };
            format!(
                "the certificate of {host} is from an unknown issuer; to trust it, add the \
                 issuer's certificate to {authorities}"
            )
        }
        // The names in the certificate would reveal a receiver whose URL is secret.
        CertificateError::NotValidForNameContext { presented, .. } if !to.is_hidden() => format!(
            "the certificate of {host} is not valid for this host name, only for {}",
            presented
                .iter()
                .map(|name| name_in(name))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of {host} is not valid for this host name")
        }
        CertificateError::BadSignature => {
            let question = match to.has_settings {
                true => "; was the issuer's key replaced after tls.ca was written?",
                false => "",
            };
            format!(
                "the certificate of {host} is not signed with the known key of its issuer{question}"
            )
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "the signature in the certificate of {host} does not fit its issuer's key, or the type \
             of that key is not supported (ECDSA P-256, P-384, Ed25519 and RSA are)"
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => format!(
            "the certificate of {host} is signed with an algorithm that is not supported; create \
             a certificate with ECDSA P-256, Ed25519 or RSA with SHA-256"
        ),
        // The library has no error variant for two common mistakes in self-made certificates.
        other => match format!("{other:?}") {
            text if text.contains("CaUsedAsEndEntity") => format!(
                "the certificate of {host} is that of an authority (CA:TRUE), which a server must \
                 not use; create a certificate for the server, without CA:TRUE"
            ),
            text if text.contains("UnsupportedCertVersion") => format!(
                "the certificate of {host} has X.509 version 1, which supports no host names \
                 (subjectAltName); create a certificate with version 3"
            ),
            _ => format!("the certificate of {host} is not valid: {other}"),
        },
    }
}

/// Extracts the host name from the library's notation `DnsName("example.com")`.
fn name_in(text: &str) -> &str {
    text.split('"').nth(1).unwrap_or(text)
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unknown date".to_owned(), |time| time.to_string())
}

/// Replaces control characters, such as line breaks, and cuts a long text.
///
/// The text may be from a server.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1_000)
        .collect()
}
