//! Shows the loaded configuration without secrets.
//!
//! Constraint: values that may be secrets are never shown. The page shows only the names of
//! headers, only the number of signing secrets, and URLs without the parts that may be secret.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use bytesize::ByteSize;
use maud::{Markup, html};

use super::parts::{counted, or_none, pairs};
use super::shell::{Page, Section, page};
use crate::admin::routes::Server;
use crate::config::{
    AdminServer, Auth, BodyFormat, Config, Postgres, Repository, Tls, Webhook, duration_text,
    rate_text, shown_url,
};
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
                h2 { "Repository" } (pairs(&repository(&config.repository)))
            }
        }
        @for one in &config.repositories {
            section.card aria-label={ "Repository " (one.name()) } {
                h2 { "Repository " (one.name()) } (pairs(&repository(one)))
            }
        }
        section.card aria-label="Daemon" { h2 { "Daemon" } (pairs(&daemon(config))) }
        @for webhook in &config.webhooks {
            section.card aria-label={ "Webhook " (webhook.name()) } {
                h2 { "Webhook " (webhook.name()) }
                (pairs(&self::webhook(webhook)))
            }
        }
    }
}

/// The names of settings, each with its value.
type Rows = Vec<(String, Markup)>;

fn rows<const N: usize>(rows: [(&str, Markup); N]) -> Rows {
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}

fn repository(repository: &Repository) -> Rows {
    let templates = &repository.templates;
    rows([
        ("path", html! { (repository.path.display()) }),
        ("name", or_none(repository.name.as_deref())),
        ("layout.project", list(&templates.project)),
        ("layout.published", list(&templates.published)),
        ("layout.snapshot", list(&templates.snapshot)),
        ("ignore", list(repository.layout.ignored().globs())),
        ("settle", duration(repository.settle)),
        ("mass_delete_after", duration(repository.mass_delete_after)),
        ("rescan", duration(repository.rescan)),
        ("watch", html! { (repository.watch.as_str()) }),
        ("poll_interval", duration(repository.poll_interval)),
        (
            "max_file_size",
            html! { (ByteSize(repository.max_file_size)) },
        ),
        (
            "on_first_start",
            html! { (repository.on_first_start.as_str()) },
        ),
    ])
}

fn daemon(config: &Config) -> Rows {
    let sources: Vec<String> = config.naming.username.iter().map(source).collect();
    let retention = &config.retention;
    let pending = retention.pending.map(duration_text);
    let size = retention
        .max_state_size
        .map(|size| ByteSize(size).to_string());
    let automatic = match config.store {
        Some(_) => "–",
        None => "nine tenths of the space that the state can take, at least 256 MiB",
    };
    let roles = [
        ("watch", config.roles.watch),
        ("deliver", config.roles.deliver),
    ];
    let otlp = config.otlp.as_ref();
    let endpoint = otlp.map(|otlp| shown_url(&otlp.endpoint));
    let headers = otlp.map_or(&[][..], |otlp| &otlp.headers);
    let mut rows = rows([("state_dir", html! { (config.state_dir.display()) })]);
    rows.extend(store(config.store.as_ref()));
    rows.extend(self::rows([("roles", list(&given(roles)))]));
    rows.extend(organizations(config));
    rows.extend(self::rows([
        ("username", list(&sources)),
        ("network.allow", list(&config.network.allow)),
        ("network.deny", list(&config.network.deny)),
        ("retention.delivered", duration(retention.delivered)),
        ("retention.dead", duration(retention.dead)),
        ("retention.pending", or_none(pending.as_deref())),
        (
            "retention.max_state_size",
            html! { (size.as_deref().unwrap_or(automatic)) },
        ),
    ]));
    rows.extend(admin(config.admin.as_ref()));
    rows.extend(self::rows([
        ("otlp.endpoint", or_none(endpoint.as_deref())),
        ("otlp.headers", names(headers)),
        (
            "log.level",
            html! { (config.log.level.as_str().to_lowercase()) },
        ),
        ("log.format", html! { (config.log.format.as_str()) }),
    ]));
    rows
}

fn store(postgres: Option<&Postgres>) -> Rows {
    let Some(postgres) = postgres else {
        return rows([("store", html! { "sqlite" })]);
    };
    rows([
        ("store.postgres", html! { (postgres.connection) }),
        ("store.password", set(postgres.password.is_some())),
        (
            "store.tls",
            html! { (if postgres.tls { "require" } else { "off" }) },
        ),
        ("store.lease", duration(postgres.lease)),
    ])
}

fn organizations(config: &Config) -> Rows {
    let organizations = config.naming.organizations.iter();
    let rows = organizations.flat_map(|(directory, organization)| {
        let row = |key, value: &str| {
            (
                format!("organizations.{directory}.{key}"),
                html! { (value) },
            )
        };
        [row("name", &organization.name), row("id", &organization.id)]
    });
    rows.collect()
}

fn admin(admin: Option<&AdminServer>) -> Rows {
    let Some(admin) = admin else {
        return rows([("admin.listen", or_none(None))]);
    };
    rows([
        ("admin.listen", html! { (admin.listen) }),
        ("admin.mode", html! { (format!("{:04o}", admin.mode)) }),
        ("admin.hosts", list(&admin.hosts)),
        ("admin.token", set(admin.token.is_some())),
    ])
}

fn webhook(webhook: &Webhook) -> Rows {
    let events = webhook.subscription.events.iter();
    let events: Vec<&str> = events.map(|event| event.as_str()).collect();
    let repositories = webhook.subscription.repositories.iter().flatten();
    let repositories: Vec<&String> = repositories.collect();
    let schedule = webhook.schedule.iter().copied();
    let schedule: Vec<String> = schedule.map(duration_text).collect();
    let rate = webhook.rate.map(rate_text);
    let mut rows = rows([
        ("url", html! { (webhook.url.shown()) }),
        ("events", list(&events)),
        ("projects", list(&webhook.globs.projects)),
        ("repositories", list(&repositories)),
    ]);
    let when = webhook.globs.when.iter();
    rows.extend(
        when.map(|(parameter, globs)| (format!("when.{}", parameter.as_str()), list(globs))),
    );
    rows.extend(self::rows([(
        "format",
        html! { (webhook.format.as_str()) },
    )]));
    if let BodyFormat::Template(template) = &webhook.format {
        rows.extend(self::rows([
            ("template.content_type", html! { (template.content_type()) }),
            ("template.body", html! { (template.source()) }),
        ]));
    }
    rows.extend(self::rows([
        ("headers", names(&webhook.headers)),
        ("secret", secrets(webhook.secrets.len())),
        ("signed_headers", html! { (webhook.signed_headers) }),
    ]));
    rows.extend(auth(webhook.auth.scheme.as_ref()));
    rows.extend(self::rows([
        ("timeout", duration(webhook.timeout)),
        ("connect_timeout", duration(webhook.connect_timeout)),
        ("retry.schedule", list(&schedule)),
        ("concurrency", html! { (webhook.concurrency) }),
        ("rate", or_none(rate.as_deref())),
    ]));
    rows.extend(tls(&webhook.tls));
    rows.extend(self::rows([("enabled", html! { (webhook.enabled) })]));
    rows
}

fn auth(scheme: Option<&Auth>) -> Rows {
    let mut rows = rows([("auth", or_none(scheme.map(Auth::as_str)))]);
    if let Some(Auth::OAuth2(oauth2)) = scheme {
        rows.extend(self::rows([
            (
                "auth.oauth2.token_url",
                html! { (shown_url(&oauth2.token_url)) },
            ),
            ("auth.oauth2.scope", or_none(oauth2.scope.as_deref())),
        ]));
    }
    rows
}

fn tls(tls: &Tls) -> Rows {
    let identity = tls.identity.as_ref();
    rows([
        ("tls.ca", certificates(tls.ca.len())),
        ("tls.ca_only", html! { (tls.ca_only) }),
        (
            "tls.client_cert",
            certificates(identity.map_or(0, |identity| identity.chain.len())),
        ),
        ("tls.client_key", set(identity.is_some())),
    ])
}

fn certificates(n: usize) -> Markup {
    match n {
        0 => or_none(None),
        1 => html! { "1 certificate" },
        n => html! { (n) " certificates" },
    }
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

fn duration(duration: Duration) -> Markup {
    html! { (duration_text(duration)) }
}

/// Shows the names of headers, without their values.
fn names(headers: &[(HeaderName, HeaderValue)]) -> Markup {
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    list(&names)
}

/// Shows the number of secrets.
fn secrets(n: usize) -> Markup {
    or_none((n > 0).then(|| counted(n as u64, "secret")).as_deref())
}

/// Shows whether a value is set, without the value.
fn set(is_set: bool) -> Markup {
    or_none(is_set.then_some("set"))
}

/// Returns the words whose flag is set.
fn given<const N: usize>(words: [(&'static str, bool); N]) -> Vec<&'static str> {
    let given = words.into_iter().filter(|(_, is_on)| *is_on);
    given.map(|(word, _)| word).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::settings::{SETTINGS, ValueType};
    use crate::config::{WithoutSecrets, load_str};

    /// Returns the views of two sample configurations, which together have every setting.
    fn shown() -> String {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/valid");
        let views = ["every_setting.yaml", "several_repositories.yaml"].map(|name| {
            let path = directory.join(name);
            let text = std::fs::read(&path).unwrap();
            let loaded = load_str(&text, &path, &WithoutSecrets);
            all(&loaded.unwrap().config).into_string()
        });
        views.concat()
    }

    #[test]
    fn every_setting_that_is_not_a_secret_is_shown() {
        let shown = shown();
        let names: BTreeSet<&str> = shown
            .split("<dt>")
            .filter_map(|rest| Some(rest.split_once("</dt>")?.0))
            .collect();
        for setting in SETTINGS {
            if matches!(setting.value, ValueType::Sourced) {
                continue;
            }
            let key = setting.key.replace("NAME", "sales");
            let name = match key.strip_prefix("repository.") {
                Some(name) => name,
                None => key.strip_prefix("webhooks[].").unwrap_or(&key),
            };
            let is_shown = match name {
                // These names are shown as headings.
                "repositories" if key == name => shown.contains("<h2>Repository models</h2>"),
                "name" if key.starts_with("webhooks") => shown.contains("<h2>Webhook catalog</h2>"),
                "event" => names.contains("events"),
                name => names.contains(name),
            };
            assert!(is_shown, "{}", setting.key);
        }
    }

    #[test]
    fn secrets_are_left_out() {
        let shown = shown();
        for secret in [
            "not-a-secret",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "a-token",
            "a-password",
            "a-secret",
            "admin-token-of",
            "=repository",
            "BEGIN",
        ] {
            assert!(!shown.contains(secret), "{secret}");
        }
        for header in [
            "<dt>headers</dt><dd>x-source</dd>",
            "<dt>otlp.headers</dt><dd>authorization</dd>",
        ] {
            assert!(shown.contains(header), "{header}: {shown}");
        }
    }
}
