//! The webhooks of a configuration.
//!
//! Constraint: a webhook that is valid here can be asked for an HTTP request without another
//! check: its URL, headers, secrets and PEM files are fit for use.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

use super::problem::shown;
use super::scalar::duration_text;
use super::section::{Context, Fault, Place, Section};
use super::value::At;
use super::{Format, Tls, Webhook, authentication, subscription, tls};
use crate::domain::route::Subscription;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The delay before each attempt, by Standard Webhooks (contract section 4), in seconds.
const SCHEDULE_SECONDS: [u64; 10] = [
    0,
    5,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
];

/// The bound of a whole exchange.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The bound of connecting: a receiver within reach takes milliseconds, and a packet that was lost
/// is sent anew after one and after three seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const TIMEOUT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(HOUR);

/// The most attempts of a schedule.
const ATTEMPTS_MAX: usize = 100;

/// The longest name of a webhook, in characters.
const NAME_MAX: usize = 100;

/// Reads `webhooks`.
pub(super) fn webhooks(
    at: Option<At<'_>>,
    root: &Place,
    context: &mut Context<'_>,
) -> Option<Vec<Webhook>> {
    let none = "no webhooks are configured; events are recorded and go nowhere";
    let at = match at {
        Some(at) if !at.is_null() => at,
        other => {
            let place = other.map_or_else(|| root.below("webhooks"), |at| at.place);
            context.warning(&place, none);
            return Some(Vec::new());
        }
    };
    let items = at.list(context, "a list of webhooks (- name: …)")?;
    if items.is_empty() {
        context.warning(&at.place, none);
    }
    let mut lines: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    let mut complete = true;
    for item in items {
        match webhook(&item, &mut lines, context) {
            Some(webhook) => found.push(webhook),
            None => complete = false,
        }
    }
    complete.then_some(found)
}

fn webhook(
    at: &At<'_>,
    lines: &mut HashMap<String, usize>,
    context: &mut Context<'_>,
) -> Option<Webhook> {
    if at.is_null() {
        let fault = Fault::new("has no value").allowed("a mapping with name, event and url");
        context.error(&at.place, fault);
        return None;
    }
    let mut section = at.section(context)?;
    let name = section
        .require(context, "name", "a text that no other webhook has")
        .and_then(|at| name(&at, lines, context));
    let event = section.take("event");
    let events = section.take("events");
    let url_at = section.require(context, "url", "http://… or https://…");
    let projects = match section.take("projects") {
        Some(at) => subscription::projects(&at, context).map(Some),
        None => Some(None),
    };
    // A filter with an error in it is a filter all the same.
    let filtered = !matches!(projects, Some(None));
    let events = subscription::events(event, events, filtered, &section.place, context);
    let format = section.choice(
        context,
        "format",
        Format::Multipart,
        &[
            ("multipart", Format::Multipart),
            ("form", Format::Form),
            ("xml", Format::Xml),
            ("json", Format::Json),
            ("cloudevents", Format::CloudEvents),
        ],
    );
    let headers = section
        .section(context, "headers")
        .and_then(|section| authentication::headers(section, context));
    let secrets = match section.take("secret") {
        Some(at) => authentication::secrets(&at, context),
        None => Some(Vec::new()),
    };
    let timeout = section.duration(context, "timeout", TIMEOUT, TIMEOUT_BOUNDS);
    let connect_timeout = connect_timeout(section.take("connect_timeout"), timeout, context);
    let schedule = section
        .section(context, "retry")
        .and_then(|section| schedule(section, context));
    let concurrency = match section.take("concurrency") {
        Some(at) => at.whole(context, 1..=1024),
        None => Some(8),
    };
    let tls_at = section.take("tls");
    let tls_place = tls_at.as_ref().map(|at| at.place.clone());
    let tls = match tls_at {
        Some(at) => at
            .section(context)
            .and_then(|section| tls::tls(section, context)),
        None => Some(Tls::default()),
    };
    let enabled = match section.take("enabled") {
        Some(at) => at.boolean(context),
        None => Some(true),
    };
    section.finish(context);

    let url_place = url_at.as_ref().map(|at| at.place.clone());
    let url = url_at.and_then(|at| url(&at, context));
    if let (Some(url), Some(place)) = (&url, &url_place) {
        plain_http(url, headers.as_deref(), tls_place.as_ref(), place, context);
    }
    let (project_globs, projects) = match projects? {
        Some((globs, set)) => (globs, Some(set)),
        None => (Vec::new(), None),
    };
    Some(Webhook {
        subscription: Subscription {
            webhook: name?,
            events: events?,
            projects,
        },
        project_globs,
        url: url?,
        format: format?,
        headers: headers?,
        secrets: secrets?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
        schedule: schedule?,
        concurrency: usize::try_from(concurrency?).unwrap_or(1),
        tls: tls?,
        enabled: enabled?,
    })
}

/// The bound of connecting, which is a part of the exchange.
fn connect_timeout(
    at: Option<At<'_>>,
    timeout: Option<Duration>,
    context: &mut Context<'_>,
) -> Option<Duration> {
    let Some(at) = at else {
        return Some(timeout.map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)));
    };
    let found = at.duration(context, TIMEOUT_BOUNDS)?;
    match timeout {
        Some(timeout) if found > timeout => {
            let [found, timeout] = [found, timeout].map(duration_text);
            let fault = Fault::new(format!(
                "{found} is longer than the whole exchange may take, {timeout}"
            ))
            .allowed(format!("a duration up to timeout, {timeout}"));
            context.error(&at.place, fault);
            None
        }
        _ => Some(found),
    }
}

fn name(
    at: &At<'_>,
    lines: &mut HashMap<String, usize>,
    context: &mut Context<'_>,
) -> Option<String> {
    let text = at.text(context)?;
    let harmless = text.trim() == text && !text.chars().any(char::is_control);
    if !harmless || text.chars().nth(NAME_MAX).is_some() {
        let fault = Fault::new("cannot be a name").allowed(format!(
            "a text of at most {NAME_MAX} characters, none of them a control character, without \
             spaces around it"
        ));
        context.error(&at.place, fault);
        return None;
    }
    if let Some(line) = lines.get(text) {
        let fault = Fault::new(format!(
            "the name {} is taken by the webhook in line {line}",
            shown(text)
        ))
        .allowed("a text that no other webhook has");
        context.error(&at.place, fault);
        return None;
    }
    lines.insert(text.to_owned(), at.place.mark.line);
    Some(text.to_owned())
}

/// Problems with a URL do not repeat it: it may hold a password or a token.
fn url(at: &At<'_>, context: &mut Context<'_>) -> Option<Url> {
    const ALLOWED: &str = "http://HOST/… or https://HOST/…";
    let text = at.text(context)?;
    let url = match Url::parse(text.trim()) {
        Ok(url) => url,
        Err(error) => {
            let fault = Fault::new(format!("is not a URL: {error}")).allowed(ALLOWED);
            context.error(&at.place, fault);
            return None;
        }
    };
    if !matches!(url.scheme(), "http" | "https") {
        let fault = Fault::new(format!("the scheme {} is not served", shown(url.scheme())))
            .allowed(ALLOWED);
        context.error(&at.place, fault);
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        let fault =
            Fault::new("holds a user name or a password; give them as a header, from a credential")
                .allowed("headers: { Authorization: { credential: NAME } }");
        context.error(&at.place, fault);
        return None;
    }
    if url.fragment().is_some() {
        let message = "holds a fragment (#…), which is never sent; leave it out";
        context.error(&at.place, Fault::new(message).allowed(ALLOWED));
        return None;
    }
    Some(url)
}

/// What does not go well with `http://`.
fn plain_http(
    url: &Url,
    headers: Option<&[(HeaderName, HeaderValue)]>,
    tls: Option<&Place>,
    place: &Place,
    context: &mut Context<'_>,
) {
    if url.scheme() != "http" {
        return;
    }
    if let Some(tls) = tls {
        context.warning(tls, "has no effect: the url begins with http://");
    }
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let has_secret = headers.is_some_and(|headers| {
        headers
            .iter()
            .any(|(name, _)| authentication::is_secret(name))
    });
    if has_secret && !is_loopback {
        let message = "sends a secret header over http://, where everybody on the way can read it";
        context.warning(place, message);
    }
}

fn schedule(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Vec<Duration>> {
    let at = section.take("schedule");
    section.finish(context);
    let Some(at) = at else {
        return Some(SCHEDULE_SECONDS.map(Duration::from_secs).to_vec());
    };
    let items = at.list(context, "a list of durations, one before each attempt")?;
    if items.is_empty() || items.len() > ATTEMPTS_MAX {
        let fault = Fault::new(format!("{} attempts are scheduled", items.len())).allowed(format!(
            "1 to {ATTEMPTS_MAX} durations, one before each attempt"
        ));
        context.error(&at.place, fault);
        return None;
    }
    let bounds = Duration::ZERO..=Duration::from_secs(30 * 24 * HOUR);
    let delays: Vec<Option<Duration>> = items
        .iter()
        .map(|item| item.duration(context, bounds.clone()))
        .collect();
    delays.into_iter().collect()
}
