//! The URL of a receiver, and its text in listings.

use std::fmt;
use std::ops::Deref;

use url::Url;

/// The placeholder for a URL that is a secret.
const HIDDEN: &str = "(not shown)";

/// The URL of a receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiverUrl {
    url: Url,
    /// Whether the URL is a secret: it was in a credential, a variable or a file.
    is_hidden: bool,
}

impl ReceiverUrl {
    pub(crate) fn new(url: Url, is_hidden: bool) -> Self {
        Self { url, is_hidden }
    }

    /// Whether the URL is a secret that is never printed.
    pub fn is_hidden(&self) -> bool {
        self.is_hidden
    }

    /// Returns the text of the URL in listings.
    ///
    /// The text omits parts that are often secrets: user name, password, the values of the query,
    /// its names without a value, and the path after its first segment. It omits everything if the
    /// URL is a secret.
    pub fn shown(&self) -> String {
        if self.is_hidden {
            return HIDDEN.to_owned();
        }
        shown(&self.url)
    }
}

/// Returns the text of a URL without the parts that are often secrets.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    let path = url.path();
    let first = path.get(1..).and_then(|rest| rest.split_once('/'));
    let path = match first {
        Some((first, rest)) if !rest.is_empty() => format!("/{first}/…"),
        _ => path.to_owned(),
    };
    let names = url.query_pairs().map(|(name, value)| {
        // A name without a value may be a token. The padding of Base64 looks like an empty value.
        if value.trim_matches('=').is_empty() {
            return "…".to_owned();
        }
        let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        format!("{name}=…")
    });
    let names: Vec<String> = names.collect();
    let query = if names.is_empty() {
        String::new()
    } else {
        format!("?{}", names.join("&"))
    };
    format!("{}://{host}{port}{path}{query}", url.scheme())
}

impl Deref for ReceiverUrl {
    type Target = Url;

    fn deref(&self) -> &Url {
        &self.url
    }
}

impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_show_no_part_that_may_be_secret() {
        for (url, expected) in [
            ("https://a.example", "https://a.example/"),
            ("https://a.example:8443/hook", "https://a.example:8443/hook"),
            ("https://a.example/hook/", "https://a.example/hook/"),
            (
                "https://a.example/services/T0/B0/hush",
                "https://a.example/services/…",
            ),
            (
                "https://a.example/x?token=hush&b%26=1",
                "https://a.example/x?token=…&b%26=…",
            ),
            ("https://a.example/x?hush", "https://a.example/x?…"),
            ("https://a.example/x?hush==", "https://a.example/x?…"),
            ("https://a.example/x?a=1&hush", "https://a.example/x?a=…&…"),
            ("https://user:hush@[::1]/", "https://[::1]/"),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(ReceiverUrl::new(url.clone(), false).shown(), expected);
            assert_eq!(ReceiverUrl::new(url, true).shown(), "(not shown)");
        }
    }
}
