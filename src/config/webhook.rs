//! The webhooks of a configuration.
//!
//! Constraint: a wrong URL, header, secret or client certificate is an error of the configuration,
//! not of the first delivery.

use std::collections::HashMap;
use std::time::Duration;

use globset::GlobSet;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use url::Url;

use super::problem::shown;
use super::reader::{Context, Fault, Location, Mapping, all};
use super::repository::Repositories;
use super::settings::WEBHOOK_NAME_MAX;
use super::types::{Authentication, FileValue, Globs, ReceiverUrl};
use super::units::{self, duration_text};
use super::value::Value;
use super::yaml::Kind;
use super::{Webhook, auth, body_format, headers, source, subscription, tls};
use crate::domain::event::Parameter;
use crate::domain::route::{Subscription, ValueFilter};

/// Reads the webhooks. `repositories` is `None` if the repositories have errors.
pub(super) fn webhooks(
    root: &Mapping<'_>,
    repositories: Option<&Repositories>,
    context: &mut Context<'_>,
) -> Option<Vec<Webhook>> {
    let given = root.given("webhooks");
    let items = match given.as_ref().map(|value| &value.node.kind) {
        None | Some(Kind::Null) => Vec::new(),
        Some(Kind::List(_)) => given.as_ref()?.items(context)?,
        Some(other) => {
            let message = format!(
                "must be a list of webhooks (- name: …), not {}",
                other.name()
            );
            context.error(&given.as_ref()?.location, message);
            return None;
        }
    };
    if items.is_empty() {
        let location = given.map_or_else(|| root.location.below("webhooks"), |at| at.location);
        let message = "no webhooks are configured; events are recorded but not delivered";
        context.warning(&location, message);
    }
    let mut lines = HashMap::new();
    all(items
        .iter()
        .map(|item| webhook(item, repositories, &mut lines, context)))
}

fn webhook(
    value: &Value<'_>,
    repositories: Option<&Repositories>,
    lines: &mut HashMap<String, usize>,
    context: &mut Context<'_>,
) -> Option<Webhook> {
    if value.is_null() {
        let fault = Fault::new("has no value").allowed("a mapping with name, event and url");
        context.error(&value.location, fault);
        return None;
    }
    let mapping = value.mapping(context)?;
    let name = mapping.read(context, "name", |value, context| {
        let line = value.location.position.line;
        value.parsed(context, |text| name(text, line, lines))
    });
    let projects = mapping.read_optional(context, "projects", subscription::projects);
    let repositories = mapping.read_optional(context, "repositories", |value, context| {
        subscription::repositories(value, repositories, context)
    });
    // `Some(None)` means that `projects` is absent. An invalid `projects` is still a filter.
    let is_filtered = !matches!(projects, Some(None));
    let events = subscription::events(&mapping, is_filtered, context);
    let when = mapping.read_optional(context, "when", |value, context| {
        subscription::when(value, events.as_ref(), context)
    });
    let url = mapping.read(context, "url", receiver_url);
    let format = body_format::format(&mapping, events.as_ref(), context);
    let mut files = Vec::new();
    let headers = mapping
        .mapping(context, "headers")
        .and_then(|mapping| headers::headers(&mapping, &mut files, context));
    let secrets = mapping.read_optional(context, "secret", |value, context| {
        headers::secrets(value, &mut files, context)
    });
    let auth = authentication(&mapping, headers.as_deref(), files, context);
    let signed_headers = signed_headers(&mapping, context);
    let timeout = mapping.read(context, "timeout", Value::duration);
    let connect_timeout = connect_timeout(&mapping, timeout, context);
    let schedule = mapping.mapping(context, "retry").and_then(|mapping| {
        mapping.read(context, "schedule", |value, context| {
            let items = value.items(context)?;
            all(items.iter().map(|item| item.duration(context)))
        })
    });
    let concurrency = mapping.read(context, "concurrency", Value::whole);
    let rate = mapping.read_optional(context, "rate", |value, context| {
        value.parsed(context, units::rate)
    });
    let tls = mapping.read_optional(context, "tls", |value, context| {
        tls::tls(&value.mapping(context)?, context)
    });
    let enabled = mapping.read(context, "enabled", Value::boolean);

    if let Some(url) = url.as_ref().filter(|url| url.scheme() == "http") {
        let has_auth = auth.as_ref().is_some_and(|auth| auth.scheme.is_some());
        warn_of_plain_http(url, headers.as_deref(), has_auth, &mapping, context);
    }
    let (globs, projects, when) = filters(projects?, when?);
    Some(Webhook {
        subscription: Subscription {
            webhook: name?,
            events: events?,
            projects,
            repositories: repositories?,
            when,
        },
        globs,
        url: url?,
        format: format?,
        headers: headers?,
        secrets: secrets?.unwrap_or_default(),
        auth: auth?,
        signed_headers: signed_headers?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
        schedule: schedule?,
        concurrency: usize::try_from(concurrency?).unwrap_or(1),
        rate: rate?,
        tls: tls?.unwrap_or_default(),
        enabled: enabled?,
    })
}

/// Separates the compiled filters of `projects` and `when` from their texts.
fn filters(
    projects: Option<(Vec<String>, GlobSet)>,
    when: Option<Vec<subscription::When>>,
) -> (Globs, Option<GlobSet>, Vec<(Parameter, ValueFilter)>) {
    let (texts, projects) = projects.unzip();
    let mut globs = Globs {
        projects: texts.unwrap_or_default(),
        when: Vec::new(),
    };
    let mut filters = Vec::new();
    for (parameter, texts, filter) in when.unwrap_or_default() {
        globs.when.push((parameter, texts));
        filters.push((parameter, filter));
    }
    (globs, projects, filters)
}

/// Reads `signed_headers`, which needs a secret to sign with.
fn signed_headers(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<bool> {
    const KEY: &str = "signed_headers";
    let is_on = mapping.read(context, KEY, Value::boolean)?;
    if let (true, None, Some(value)) = (is_on, mapping.given("secret"), mapping.given(KEY)) {
        let fault =
            Fault::new("needs the setting secret; without a secret, requests have no signature");
        context.error(&value.location, fault);
        return None;
    }
    Some(is_on)
}

/// Reads `connect_timeout`, which must not exceed `timeout`.
fn connect_timeout(
    mapping: &Mapping<'_>,
    timeout: Option<Duration>,
    context: &mut Context<'_>,
) -> Option<Duration> {
    const KEY: &str = "connect_timeout";
    let found = mapping.read(context, KEY, Value::duration)?;
    let longest = timeout.unwrap_or(found);
    match mapping.given(KEY) {
        Some(value) if found > longest => {
            let [found, longest] = [found, longest].map(duration_text);
            let fault = Fault::new(format!(
                "{found} is longer than timeout, which is {longest}"
            ))
            .allowed(format!("a duration up to {longest}"));
            context.error(&value.location, fault);
            None
        }
        _ => Some(found.min(longest)),
    }
}

fn name(text: &str, line: usize, lines: &mut HashMap<String, usize>) -> Result<String, Fault> {
    let is_harmless = text.trim() == text && !text.chars().any(char::is_control);
    if !is_harmless || text.chars().nth(WEBHOOK_NAME_MAX).is_some() {
        return Err(Fault::new("is not a valid name").allowed(format!(
            "a string of at most {WEBHOOK_NAME_MAX} characters, without control characters and \
             without spaces around it"
        )));
    }
    if let Some(line) = lines.get(text) {
        let message = format!(
            "the webhook on line {line} already has the name {}",
            shown(text)
        );
        return Err(Fault::new(message).allowed("a name that no other webhook has"));
    }
    lines.insert(text.to_owned(), line);
    Ok(text.to_owned())
}

/// Reads the URL of the receiver.
///
/// A URL from a credential, variable or file is a secret.
fn receiver_url(value: &Value<'_>, context: &mut Context<'_>) -> Option<ReceiverUrl> {
    let sourced = source::read(value, context)?;
    let text = if sourced.is_placeholder() {
        "https://not-read.invalid/"
    } else {
        sourced.text.expose_secret()
    };
    let url = match url(text, BASIC) {
        // The source may contain another secret by mistake, so the message does not quote the
        // scheme.
        Err(_) if !sourced.is_plain && has_other_scheme(text) => Err(Fault::not_allowed(
            "does not begin with http:// or https://",
        )),
        url => url,
    };
    let url = context.accept(&value.location, url)?;
    Some(ReceiverUrl::new(url, !sourced.is_plain))
}

fn has_other_scheme(text: &str) -> bool {
    Url::parse(text.trim()).is_ok_and(|url| !matches!(url.scheme(), "http" | "https"))
}

/// Reads `auth`, which cannot be combined with a configured header `Authorization`.
fn authentication(
    mapping: &Mapping<'_>,
    headers: Option<&[(HeaderName, HeaderValue)]>,
    mut files: Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Authentication> {
    let scheme = mapping.read_optional(context, "auth", |value, context| {
        let has_header = |(name, _): &(HeaderName, HeaderValue)| name == AUTHORIZATION;
        if headers.unwrap_or_default().iter().any(has_header) {
            let message = "sets the header Authorization, which is also set under headers";
            let fault = Fault::new(message).allowed("auth or that header, not both");
            context.error(&value.location, fault);
        }
        auth::auth(value, &mut files, context)
    })?;
    Some(Authentication { scheme, files })
}

/// The setting for the user name and the password of a webhook.
const BASIC: &str = "auth: { basic: { username: NAME, password: { credential: NAME } } }";

/// Parses a URL.
///
/// `instead` names the settings to use for a user name and a password. Messages quote at most the
/// scheme of the URL, because the rest may contain a password or a token.
pub(super) fn url(text: &str, instead: &str) -> Result<Url, Fault> {
    if !text.contains("://") {
        return Err(Fault::not_allowed(
            "does not begin with http:// or https://",
        ));
    }
    let url = Url::parse(text.trim())
        .map_err(|error| Fault::not_allowed(format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        let message = format!("the scheme {} is not supported", shown(url.scheme()));
        return Err(Fault::not_allowed(message));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::new(format!(
            "contains a user name or a password; use {instead} instead"
        )));
    }
    if url.fragment().is_some() {
        let message = "contains a fragment (#…), which HTTP never sends; remove the fragment";
        return Err(Fault::not_allowed(message));
    }
    Ok(url)
}

/// Reads the URL of a collector of traces.
pub(super) fn endpoint(text: &str) -> Result<Url, Fault> {
    let url = url(text, "the header Authorization in otlp.headers")?;
    if url.query().is_some() {
        return Err(Fault::not_allowed(
            "contains a query (?…); the daemon cannot append a path to a query",
        ));
    }
    Ok(url)
}

/// Warns of settings that are useless or unsafe with an `http://` URL.
fn warn_of_plain_http(
    url: &Url,
    headers: Option<&[(HeaderName, HeaderValue)]>,
    has_auth: bool,
    mapping: &Mapping<'_>,
    context: &mut Context<'_>,
) {
    if let Some(tls) = mapping.given("tls") {
        let message = "has no effect on callbacks, because the url begins with http://";
        context.warning(&tls.location, message);
    }
    let headers = headers.unwrap_or_default();
    let has_secret = has_auth || headers.iter().any(|(name, _)| headers::is_secret(name));
    if has_secret && is_open(url) {
        context.warning(&url_location(mapping), headers::OPEN_SECRET);
    }
}

/// Whether requests to a URL cross a network without encryption.
pub(super) fn is_open(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// Whether the host of a URL is `localhost` or a loopback address.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn url_location(mapping: &Mapping<'_>) -> Location {
    mapping
        .given("url")
        .map_or_else(|| mapping.location.clone(), |value| value.location)
}
