//! Shows the loaded configuration without secrets.
//!
//! Constraint: values that may be secrets are never shown. Headers are shown without values,
//! secrets only by their number, and URLs only as in errors.

use std::sync::Arc;

use axum::extract::State;
use bytesize::ByteSize;
use maud::{Markup, html};

use super::parts::{or_none, pairs};
use super::shell::{Page, Section, page};
use crate::admin::routes::Server;
use crate::config::{Config, Repository, Webhook, duration_text, rate_text};
use crate::domain::parameters::UsernameSource;

pub(super) async fn view(State(server): State<Arc<Server>>) -> Page {
    let config = server.admin.sources.config();
    page(Section::Settings, "Settings", &all(&config))
}

pub(super) fn all(config: &Config) -> Markup {
    html! {
        p {
            "The settings in use, read from " code { (config.file.display()) }
            ". Secrets are left out."
        }
        @if config.repositories.is_empty() {
            section.card aria-label="Repository" {
                h2 { "Repository" } (repository(&config.repository))
            }
        }
        @for one in &config.repositories {
            section.card aria-label={ "Repository " (one.name()) } {
                h2 { "Repository " (one.name()) } (repository(one))
            }
        }
        section.card aria-label="Daemon" { h2 { "Daemon" } (daemon(config)) }
        @for webhook in &config.webhooks {
            section.card aria-label={ "Webhook " (webhook.name()) } {
                h2 { "Webhook " (webhook.name()) }
                (self::webhook(webhook))
            }
        }
    }
}

fn repository(repository: &Repository) -> Markup {
    let templates = &repository.templates;
    pairs(&[
        ("repository.path", html! { (repository.path.display()) }),
        ("layout.project", list(&templates.project)),
        ("layout.published", list(&templates.published)),
        ("layout.snapshot", list(&templates.snapshot)),
        ("settle", html! { (duration_text(repository.settle)) }),
        (
            "mass_delete_after",
            html! { (duration_text(repository.mass_delete_after)) },
        ),
        ("rescan", html! { (duration_text(repository.rescan)) }),
        ("watch", html! { (repository.watch.as_str()) }),
        (
            "poll_interval",
            html! { (duration_text(repository.poll_interval)) },
        ),
        (
            "max_file_size",
            html! { (ByteSize(repository.max_file_size)) },
        ),
        (
            "on_first_start",
            html! { (repository.on_first_start.as_str()) },
        ),
        ("ignore", list(repository.layout.ignored().globs())),
    ])
}

fn daemon(config: &Config) -> Markup {
    let organizations = config.naming.organizations.iter();
    let organizations: Vec<String> = organizations
        .map(|(directory, organization)| {
            format!("{directory}: {} ({})", organization.name, organization.id)
        })
        .collect();
    let sources: Vec<String> = config.naming.username.iter().map(source).collect();
    let retention = &config.retention;
    let pending = retention
        .pending
        .map_or_else(|| "none".to_owned(), duration_text);
    let size = retention
        .max_state_size
        .map(|size| ByteSize(size).to_string());
    let admin = config.admin.as_ref();
    let hosts = admin
        .map(|admin| admin.hosts.as_slice())
        .unwrap_or_default();
    pairs(&[
        ("state_dir", html! { (config.state_dir.display()) }),
        ("username", list(&sources)),
        ("organizations", list(&organizations)),
        (
            "retention.delivered",
            html! { (duration_text(retention.delivered)) },
        ),
        ("retention.dead", html! { (duration_text(retention.dead)) }),
        ("retention.pending", html! { (pending) }),
        (
            "retention.max_state_size",
            html! { (size.as_deref().unwrap_or("nine tenths of the disk")) },
        ),
        ("network.allow", list(&config.network.allow)),
        ("network.deny", list(&config.network.deny)),
        (
            "admin.listen",
            html! { @if let Some(admin) = admin { (admin.listen) } },
        ),
        ("admin.hosts", list(hosts)),
        (
            "admin.token",
            html! {
                (if admin.is_some_and(|admin| admin.token.is_some()) { "set" } else { "none" })
            },
        ),
        (
            "log.level",
            html! { (config.log.level.as_str().to_lowercase()) },
        ),
    ])
}

fn webhook(webhook: &Webhook) -> Markup {
    let events = webhook.subscription.events.iter();
    let events: Vec<&str> = events.map(|event| event.as_str()).collect();
    let when = webhook.globs.when.iter();
    let when: Vec<String> = when
        .map(|(parameter, globs)| format!("{}: {}", parameter.as_str(), globs.join(", ")))
        .collect();
    let headers: Vec<&str> = webhook
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let schedule = webhook.schedule.iter().copied();
    let schedule: Vec<String> = schedule.map(duration_text).collect();
    let tls = &webhook.tls;
    let tls: Vec<&str> = [
        ("ca", !tls.ca.is_empty()),
        ("ca_only", tls.ca_only),
        ("client_cert", tls.identity.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_set)| is_set.then_some(name))
    .collect();
    let auth = webhook.auth.scheme.as_ref().map(|auth| auth.as_str());
    let rate = webhook.rate.map(rate_text);
    pairs(&[
        ("url", html! { (webhook.url.shown()) }),
        ("format", html! { (webhook.format.as_str()) }),
        ("events", list(&events)),
        ("projects", list(&webhook.globs.projects)),
        ("when", list(&when)),
        ("headers", list(&headers)),
        ("auth", or_none(auth)),
        ("secret", html! { (webhook.secrets.len()) }),
        ("timeout", html! { (duration_text(webhook.timeout)) }),
        (
            "connect_timeout",
            html! { (duration_text(webhook.connect_timeout)) },
        ),
        ("retry.schedule", list(&schedule)),
        ("concurrency", html! { (webhook.concurrency) }),
        ("rate", or_none(rate.as_deref())),
        ("tls", list(&tls)),
        ("enabled", html! { (webhook.enabled) }),
    ])
}

fn source(source: &UsernameSource) -> String {
    match source {
        UsernameSource::Annotation(name) => format!("annotation:{name}"),
        UsernameSource::Value(value) => format!("value:{value}"),
        other => other.as_str().to_owned(),
    }
}

fn list<T: std::fmt::Display>(items: &[T]) -> Markup {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    let joined = items.join(", ");
    or_none((!items.is_empty()).then_some(joined.as_str()))
}
