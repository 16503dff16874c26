//! `check`: validates the configuration and prints where events are sent.
//!
//! Constraint: the command works offline. It reads the configuration and the files that the
//! configuration names, and opens no connection and no store. If the configuration uses audit
//! records, the command also reads the kernel's audit rules. It never prints secrets or the values
//! of headers.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;

use super::output::{print_json, safe_lines};
use super::{DONE, status_of_problems};
use crate::actor;
use crate::config::{
    self, Auth, Config, Problem, Repository, SystemEnvironment, Webhook, duration_text, rate_text,
    shown_url,
};
use crate::webhook::{Proxies, TrustRoots, Way};

/// Checks `file`, or the default file, and prints the result.
///
/// Returns the exit status.
pub(super) fn check(file: Option<&Path>, json: bool, out: &mut dyn Write) -> io::Result<u8> {
    let (file, mut result) = match config::find(file) {
        Ok(found) => {
            let mut result = config::load(&found.file, &SystemEnvironment);
            let warnings = match &mut result {
                Ok(loaded) => &mut loaded.warnings,
                Err(problems) => &mut problems.warnings,
            };
            warnings.extend(found.ignored);
            (found.file, result)
        }
        Err(problems) => (PathBuf::from(config::HERE), Err(problems)),
    };
    let proxies = Proxies::of(&SystemEnvironment);
    if let Ok(loaded) = &mut result {
        let missing = TrustRoots::load().warning(&loaded.config.webhooks);
        let warnings = missing.iter().chain(proxies.warnings());
        let problems = warnings.map(|warning| Problem::of_file(&file, warning.as_str()));
        loaded.warnings.extend(problems);
    }
    if let Ok(loaded) = &mut result
        && let Some(key) = loaded.config.naming.audit_key()
    {
        let problem = |gap: actor::Gap| Problem::of_file(&file, format!("username: {gap}"));
        for path in loaded.config.roots() {
            let gaps = actor::gaps(&config::resolved(path), key);
            loaded.warnings.extend(gaps.into_iter().map(problem));
        }
    }
    let (errors, warnings, config) = match &result {
        Ok(loaded) => (&[][..], &loaded.warnings, Some(&loaded.config)),
        Err(problems) => (&problems.errors[..], &problems.warnings, None),
    };
    let report = Report {
        file: file.display().to_string(),
        valid: config.is_some(),
        errors,
        warnings,
        config: config.map(|config| Summary::of(config, &proxies)),
    };
    if json {
        print_json(out, &report)?;
    } else {
        let mut text = Vec::new();
        print(&report, &mut text)?;
        let text = safe_lines(&String::from_utf8_lossy(&text));
        out.write_all(text.as_bytes())?;
    }
    out.flush()?;
    Ok(match &result {
        Ok(_) => DONE,
        Err(problems) => status_of_problems(problems),
    })
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    valid: bool,
    errors: &'a [Problem],
    warnings: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Summary>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(flatten)]
    repository: RepositorySummary,
    /// The repositories of the setting `repositories`. The fields above describe the first one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<RepositorySummary>,
    state_dir: String,
    /// The PostgreSQL database of the state. Absent if the state is in SQLite.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    network: NetworkSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    webhooks: Vec<WebhookSummary>,
}

#[derive(Serialize)]
struct RepositorySummary {
    /// The name, if there are several repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    repository: String,
    project: Vec<String>,
    published: Vec<String>,
    snapshot: Vec<String>,
    ignore: Vec<String>,
}

impl RepositorySummary {
    fn of(repository: &Repository) -> Self {
        Self {
            name: repository.name_in_keys().map(|name| name.to_string()),
            repository: repository.path.display().to_string(),
            project: repository.templates.project.clone(),
            published: repository.templates.published.clone(),
            snapshot: repository.templates.snapshot.clone(),
            ignore: repository.layout.ignored().globs().to_vec(),
        }
    }
}

#[derive(Serialize)]
struct NetworkSummary {
    allow: Vec<String>,
    deny: Vec<String>,
}

/// A webhook without its secrets.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookSummary {
    name: String,
    enabled: bool,
    url: String,
    /// The proxy, or why none is used.
    via: String,
    format: &'static str,
    events: Vec<&'static str>,
    /// The globs of `projects`. Absent if the webhook receives events of every project.
    #[serde(skip_serializing_if = "Option::is_none")]
    projects: Option<Vec<String>>,
    /// The setting `repositories`. Absent if the webhook receives events of every repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    repositories: Option<Vec<String>>,
    /// The globs of `when` by parameter. Absent if there are none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    when: BTreeMap<String, Vec<String>>,
    /// The source of the header `Authorization`, without secret values.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<String>,
    headers: Vec<String>,
    secrets: usize,
    signed_headers: bool,
    tls: Vec<&'static str>,
    #[serde(flatten)]
    limits: Limits,
}

/// The times and limits of requests to a webhook.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    timeout: String,
    connect_timeout: String,
    schedule: Vec<String>,
    concurrency: usize,
    /// The maximum rate of requests. Absent if there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
}

impl Limits {
    fn of(webhook: &Webhook) -> Self {
        let schedule = webhook.schedule.iter().copied();
        Self {
            timeout: duration_text(webhook.timeout),
            connect_timeout: duration_text(webhook.connect_timeout),
            schedule: schedule.map(duration_text).collect(),
            concurrency: webhook.concurrency,
            rate: webhook.rate.map(rate_text),
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeout,
            connect_timeout,
            concurrency,
            ..
        } = self;
        write!(
            formatter,
            "{timeout} for an attempt, {connect_timeout} of it to connect, {concurrency} projects \
             at the same time"
        )?;
        match &self.rate {
            Some(rate) => write!(formatter, ", {rate} requests"),
            None => Ok(()),
        }
    }
}

impl Summary {
    fn of(config: &Config, proxies: &Proxies) -> Self {
        let several = config.repositories.iter();
        Self {
            repository: RepositorySummary::of(&config.repository),
            repositories: several.map(RepositorySummary::of).collect(),
            state_dir: config.state_dir.display().to_string(),
            store: config.store.as_ref().map(|store| {
                let tls = if store.tls { "with TLS" } else { "without TLS" };
                let name = match store.repositories.as_slice() {
                    [] => format!("repository {}", store.repository),
                    several => format!("repositories {}", several.join(", ")),
                };
                format!("PostgreSQL {tls}, {}, as the {name}", store.connection)
            }),
            network: NetworkSummary {
                allow: config.network.allow.iter().map(range_text).collect(),
                deny: config.network.deny.iter().map(range_text).collect(),
            },
            admin: config.admin.as_ref().map(|admin| admin.listen.to_string()),
            webhooks: config
                .webhooks
                .iter()
                .map(|webhook| WebhookSummary::of(webhook, proxies))
                .collect(),
        }
    }
}

impl WebhookSummary {
    fn of(webhook: &Webhook, proxies: &Proxies) -> Self {
        let tls = &webhook.tls;
        let has_projects = webhook.subscription.projects.is_some();
        Self {
            name: webhook.name().to_owned(),
            enabled: webhook.enabled,
            url: webhook.url.shown(),
            via: via(webhook, proxies),
            format: webhook.format.as_str(),
            events: webhook
                .subscription
                .events
                .iter()
                .map(|event| event.label())
                .collect(),
            projects: has_projects.then(|| webhook.globs.projects.clone()),
            repositories: webhook
                .subscription
                .repositories
                .as_ref()
                .map(|names| names.iter().cloned().collect()),
            when: webhook.globs.when_by_name(),
            authorization: webhook.auth.scheme.as_ref().map(authorization),
            headers: webhook
                .headers
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
            secrets: webhook.secrets.len(),
            signed_headers: webhook.signed_headers,
            tls: [
                ("ca", !tls.ca.is_empty()),
                ("ca_only", tls.ca_only),
                ("client_cert", tls.identity.is_some()),
            ]
            .into_iter()
            .filter(|(_, is_set)| *is_set)
            .map(|(name, _)| name)
            .collect(),
            limits: Limits::of(webhook),
        }
    }
}

/// Describes how requests reach the receiver.
///
/// If the URL is hidden, the entry of `NO_PROXY` is left out, because it could reveal the host.
fn via(webhook: &Webhook, proxies: &Proxies) -> String {
    match proxies.way(&webhook.url) {
        Way::Excepted(_) if webhook.url.is_hidden() => "directly, by NO_PROXY".to_owned(),
        way => way.to_string(),
    }
}

/// Describes the source of the header `Authorization`, without secret values.
fn authorization(auth: &Auth) -> String {
    match auth {
        Auth::Bearer(_) => "bearer token".to_owned(),
        Auth::Basic { .. } => "user name and password".to_owned(),
        Auth::OAuth2(oauth2) => format!("token from {}", shown_url(&oauth2.token_url)),
    }
}

/// Formats a range as in the configuration: a single address has no prefix length.
fn range_text(range: &IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() {
        range.addr().to_string()
    } else {
        range.to_string()
    }
}

fn print(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for problem in report.errors {
        writeln!(out, "{problem}")?;
    }
    if let Some(summary) = &report.config {
        writeln!(out, "{}: valid", report.file)?;
        writeln!(out)?;
        print_summary(summary, out)?;
    }
    if !report.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if !report.valid {
        let count = report.errors.len();
        let noun = if count == 1 { "error" } else { "errors" };
        writeln!(out)?;
        writeln!(out, "{}: not valid, {count} {noun}", report.file)?;
    }
    Ok(())
}

fn print_repository(repository: &RepositorySummary, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "repository  {}", repository.repository)?;
    if let Some(name) = &repository.name {
        writeln!(out, "  {:<9}  {name}", "name")?;
    }
    for (role, templates) in [
        ("project", &repository.project),
        ("published", &repository.published),
        ("snapshot", &repository.snapshot),
    ] {
        for template in templates {
            writeln!(out, "  {role:<9}  {template}")?;
        }
    }
    if !repository.ignore.is_empty() {
        writeln!(out, "  {:<9}  {}", "ignore", repository.ignore.join(", "))?;
    }
    Ok(())
}

fn print_summary(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    if summary.repositories.is_empty() {
        print_repository(&summary.repository, out)?;
    }
    for repository in &summary.repositories {
        print_repository(repository, out)?;
    }
    // With PostgreSQL, the directory has only the control socket.
    let label = summary.store.as_ref().map_or("state", |_| "state_dir");
    writeln!(out, "{label:<12}{}", summary.state_dir)?;
    if let Some(store) = &summary.store {
        writeln!(out, "store       {store}")?;
    }
    if let Some(admin) = &summary.admin {
        writeln!(out, "admin       {admin}")?;
    }
    writeln!(
        out,
        "network     every address except link-local, cloud metadata and unspecified addresses"
    )?;
    for (list, ranges) in [
        ("deny", &summary.network.deny),
        ("allow", &summary.network.allow),
    ] {
        if !ranges.is_empty() {
            writeln!(out, "  {list:<9} {}", ranges.join(", "))?;
        }
    }
    for webhook in &summary.webhooks {
        writeln!(out)?;
        write!(out, "{webhook}")?;
    }
    Ok(())
}

impl fmt::Display for WebhookSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.enabled { "" } else { " (disabled)" };
        writeln!(formatter, "webhook     {}{state}", self.name)?;
        let mut line = |name: &str, text: &str| writeln!(formatter, "  {name:<9} {text}");
        line("to", &format!("{} as {}", self.url, self.format))?;
        line("via", &self.via)?;
        line("events", &self.events.join(", "))?;
        match &self.projects {
            Some(globs) => line("projects", &globs.join(", "))?,
            None => line("projects", "all")?,
        }
        if let Some(names) = &self.repositories {
            line("from", &names.join(", "))?;
        }
        for (parameter, globs) in &self.when {
            line("when", &format!("{parameter} {}", globs.join(", ")))?;
        }
        line("auth", &self.auth())?;
        let schedule = &self.limits.schedule;
        let attempts = schedule.len();
        let noun = if attempts == 1 { "attempt" } else { "attempts" };
        line(
            "retry",
            &format!("{attempts} {noun}: {}", schedule.join(", ")),
        )?;
        line("limits", &self.limits.to_string())
    }
}

impl WebhookSummary {
    /// Describes how requests are authenticated, without secret values.
    fn auth(&self) -> String {
        let mut parts = Vec::new();
        match self.secrets {
            0 => {}
            1 => parts.push("signed".to_owned()),
            _ => parts.push("signed with two secrets".to_owned()),
        }
        if self.signed_headers {
            parts.push("headers signed".to_owned());
        }
        parts.extend(self.authorization.clone());
        if !self.headers.is_empty() {
            parts.push(format!("headers {}", self.headers.join(", ")));
        }
        if !self.tls.is_empty() {
            parts.push(format!("tls {}", self.tls.join(", ")));
        }
        if parts.is_empty() {
            parts.push("none: no secret, no auth, no headers, no client certificate".to_owned());
        }
        parts.join("; ")
    }
}
