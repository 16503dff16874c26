//! `check`: is the configuration valid, and where do events go?
//!
//! Constraint: offline. It reads the configuration and what that refers to, and opens no
//! connection and no store. It prints which headers and secrets are set, never their values.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use ipnet::IpNet;
use serde::Serialize;
use url::Url;

use crate::config::{
    self, Config, Loaded, Problem, Problems, SystemEnvironment, Webhook, duration_text,
};
use crate::webhook::TrustRoots;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The configuration can be used.
    Valid,
    /// It cannot; the errors have been printed.
    Invalid,
}

impl Verdict {
    /// The exit status (contract section 6).
    pub const fn exit_status(self) -> u8 {
        match self {
            Verdict::Valid => 0,
            Verdict::Invalid => 78,
        }
    }
}

/// Checks `file`, or the default one, and prints the result to `out`.
///
/// # Errors
///
/// `out` cannot be written to.
pub fn check(file: Option<&Path>, json: bool, out: &mut dyn Write) -> io::Result<Verdict> {
    let file = Config::file_or_default(file);
    let mut result = config::load(&file, &SystemEnvironment);
    if let Ok(loaded) = &mut result
        && let Some(warning) = TrustRoots::load().warning(&loaded.config.webhooks)
    {
        loaded.warnings.push(Problem::of_file(&file, warning));
    }
    print(&file, &result, json, out)
}

fn print(
    file: &Path,
    result: &Result<Loaded, Problems>,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    if json {
        let report = match result {
            Ok(loaded) => Report::valid(file, loaded),
            Err(problems) => Report::invalid(file, problems),
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        match result {
            Ok(loaded) => print_valid(file, loaded, out)?,
            Err(problems) => print_invalid(file, problems, out)?,
        }
    }
    out.flush()?;
    Ok(match result {
        Ok(_) => Verdict::Valid,
        Err(_) => Verdict::Invalid,
    })
}

/// What is printed, as data.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    valid: bool,
    errors: &'a [Problem],
    warnings: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Summary>,
}

impl<'a> Report<'a> {
    fn valid(file: &Path, loaded: &'a Loaded) -> Self {
        Self {
            file: file.display().to_string(),
            valid: true,
            errors: &[],
            warnings: &loaded.warnings,
            config: Some(Summary::of(&loaded.config)),
        }
    }

    fn invalid(file: &Path, problems: &'a Problems) -> Self {
        Self {
            file: file.display().to_string(),
            valid: false,
            errors: &problems.errors,
            warnings: &problems.warnings,
            config: None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    repository: String,
    project: Vec<String>,
    published: Vec<String>,
    snapshot: Vec<String>,
    state_dir: String,
    network: NetworkSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    webhooks: Vec<WebhookSummary>,
}

/// What callbacks may be sent to, beside the defaults.
#[derive(Serialize)]
struct NetworkSummary {
    allow: Vec<String>,
    deny: Vec<String>,
}

/// A webhook without what is secret in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookSummary {
    name: String,
    enabled: bool,
    url: String,
    format: &'static str,
    events: Vec<&'static str>,
    /// Absent where every project is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    projects: Option<Vec<String>>,
    headers: Vec<String>,
    secrets: usize,
    tls: Vec<&'static str>,
    timeout: String,
    connect_timeout: String,
    schedule: Vec<String>,
    concurrency: usize,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let repository = &config.repository;
        Self {
            repository: repository.path.display().to_string(),
            project: repository.templates.project.clone(),
            published: repository.templates.published.clone(),
            snapshot: repository.templates.snapshot.clone(),
            state_dir: config.state_dir.display().to_string(),
            network: NetworkSummary {
                allow: config.network.allow.iter().map(range_text).collect(),
                deny: config.network.deny.iter().map(range_text).collect(),
            },
            admin: config.admin.as_ref().map(ToString::to_string),
            webhooks: config.webhooks.iter().map(WebhookSummary::of).collect(),
        }
    }
}

impl WebhookSummary {
    fn of(webhook: &Webhook) -> Self {
        let tls = &webhook.tls;
        let has_projects = webhook.subscription.projects.is_some();
        Self {
            name: webhook.name().to_owned(),
            enabled: webhook.enabled,
            url: public_url(&webhook.url),
            format: webhook.format.as_str(),
            events: webhook
                .subscription
                .events
                .iter()
                .map(|event| event.label())
                .collect(),
            projects: has_projects.then(|| webhook.project_globs.clone()),
            headers: webhook
                .headers
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
            secrets: webhook.secrets.len(),
            tls: [
                ("ca", !tls.ca.is_empty()),
                ("client_cert", tls.identity.is_some()),
            ]
            .into_iter()
            .filter(|(_, is_set)| *is_set)
            .map(|(name, _)| name)
            .collect(),
            timeout: duration_text(webhook.timeout),
            connect_timeout: duration_text(webhook.connect_timeout),
            schedule: webhook
                .schedule
                .iter()
                .copied()
                .map(duration_text)
                .collect(),
            concurrency: webhook.concurrency,
        }
    }
}

/// A range as it is written in the configuration: an address alone without its length.
fn range_text(range: &IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() {
        range.addr().to_string()
    } else {
        range.to_string()
    }
}

/// The URL without what may be secret in it: user name, password, and the values of the query.
pub fn public_url(url: &Url) -> String {
    let mut public = url.clone();
    // Both fail only for URLs that cannot have them, and then there is nothing to hide.
    let _ = public.set_username("");
    let _ = public.set_password(None);
    public.set_fragment(None);
    if url.query().is_some() {
        let names: Vec<String> = url
            .query_pairs()
            .map(|(name, _)| name.into_owned())
            .collect();
        let mut pairs = public.query_pairs_mut();
        pairs.clear();
        for name in names {
            pairs.append_pair(&name, "…");
        }
    }
    // The mark stands for a value and need not look like an encoded one.
    public.as_str().replace("%E2%80%A6", "…")
}

fn print_valid(file: &Path, loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    let summary = Summary::of(&loaded.config);
    writeln!(out, "{}: valid", file.display())?;
    writeln!(out)?;
    writeln!(out, "repository  {}", summary.repository)?;
    for (role, templates) in [
        ("project", &summary.project),
        ("published", &summary.published),
        ("snapshot", &summary.snapshot),
    ] {
        for template in templates {
            writeln!(out, "  {role:<9}  {template}")?;
        }
    }
    writeln!(out, "state       {}", summary.state_dir)?;
    if let Some(admin) = &summary.admin {
        writeln!(out, "admin       {admin}")?;
    }
    writeln!(
        out,
        "network     every address but link-local ones and those of cloud metadata"
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
    print_warnings(&loaded.warnings, out)
}

impl fmt::Display for WebhookSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.enabled { "" } else { " (disabled)" };
        writeln!(formatter, "webhook     {}{state}", self.name)?;
        let mut line = |name: &str, text: &str| writeln!(formatter, "  {name:<9} {text}");
        line("to", &format!("{} as {}", self.url, self.format))?;
        line("events", &self.events.join(", "))?;
        match &self.projects {
            Some(globs) => line("projects", &globs.join(", "))?,
            None => line("projects", "all")?,
        }
        line("auth", &self.auth())?;
        let attempts = self.schedule.len();
        let noun = if attempts == 1 { "attempt" } else { "attempts" };
        line(
            "retry",
            &format!("{attempts} {noun}: {}", self.schedule.join(", ")),
        )?;
        let (timeout, connect_timeout) = (&self.timeout, &self.connect_timeout);
        let concurrency = self.concurrency;
        line(
            "limits",
            &format!(
                "{timeout} for an exchange, {connect_timeout} of it to connect, {concurrency} \
                 projects side by side"
            ),
        )
    }
}

impl WebhookSummary {
    /// What is set, without its value.
    fn auth(&self) -> String {
        let mut parts = Vec::new();
        match self.secrets {
            0 => {}
            1 => parts.push("signed".to_owned()),
            _ => parts.push("signed with two secrets".to_owned()),
        }
        if !self.headers.is_empty() {
            parts.push(format!("headers {}", self.headers.join(", ")));
        }
        if !self.tls.is_empty() {
            parts.push(format!("tls {}", self.tls.join(", ")));
        }
        if parts.is_empty() {
            parts.push("none: neither signed nor with headers of its own".to_owned());
        }
        parts.join("; ")
    }
}

fn print_invalid(file: &Path, problems: &Problems, out: &mut dyn Write) -> io::Result<()> {
    for problem in &problems.errors {
        writeln!(out, "{problem}")?;
    }
    print_warnings(&problems.warnings, out)?;
    let count = problems.errors.len();
    let noun = if count == 1 { "error" } else { "errors" };
    writeln!(out)?;
    writeln!(out, "{}: not valid, {count} {noun}", file.display())
}

fn print_warnings(warnings: &[Problem], out: &mut dyn Write) -> io::Result<()> {
    if !warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    const TEXT: &str = "repository: { path: repository }
network: { deny: [10.0.0.0/8], allow: [10.1.0.0/16, 169.254.7.7] }
webhooks:
  - name: catalog
    events: [Project Publish, snapshot-create]
    url: https://catalog.example.com/hook?token=hidden-1
    projects: [\"sales/*\"]
    headers: { Authorization: hidden-2, X-Key: { file: key } }
    secret: { env: SECRET }
    retry: { schedule: [0s, 5m] }
  - { name: spare, events: \"*\", url: \"http://127.0.0.1:9/\", enabled: false }
";

    fn run(text: &str, json: bool) -> (Verdict, String) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("repository")).unwrap();
        fs::write(directory.path().join("key"), "hidden-3\n").unwrap();
        let file = directory.path().join("config.yaml");
        fs::write(&file, text).unwrap();
        let environment =
            BTreeMap::from([("SECRET".to_owned(), "hidden-4-hidden-4-hidden-4".to_owned())]);
        let mut out = Vec::new();
        let verdict = print(&file, &config::load(&file, &environment), json, &mut out).unwrap();
        (verdict, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_valid_configuration_is_listed_without_what_is_secret() {
        let (verdict, printed) = run(TEXT, false);
        assert_eq!(verdict.exit_status(), 0);
        for expected in [
            "webhook     catalog\n",
            "  to        https://catalog.example.com/hook?token=… as multipart\n",
            "  events    Project Publish, Snapshot Create\n",
            "  projects  sales/*\n",
            "  auth      signed; headers authorization, x-key\n",
            "  retry     2 attempts: 0s, 5m\n",
            "  limits    15s for an exchange, 5s of it to connect, 8 projects side by side\n",
            "webhook     spare (disabled)\n",
            "  deny      10.0.0.0/8\n",
            "  allow     10.1.0.0/16, 169.254.7.7\n",
            "  projects  all\n",
            "  project    {organization}/{project}/project.xml\n",
        ] {
            assert!(
                printed.contains(expected),
                "{expected:?} not in:\n{printed}"
            );
        }
        assert!(!printed.contains("hidden"), "{printed}");
    }

    #[test]
    fn json_says_the_same() {
        let (_, printed) = run(TEXT, true);
        assert!(!printed.contains("hidden"), "{printed}");
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["valid"], true);
        let webhook = &report["config"]["webhooks"][0];
        assert_eq!(webhook["events"][1], "Snapshot Create");
        assert_eq!(webhook["secrets"], 1);
        assert_eq!(webhook["schedule"][1], "5m");
        assert_eq!(webhook["connectTimeout"], "5s");
        assert_eq!(report["config"]["network"]["deny"][0], "10.0.0.0/8");
    }

    #[test]
    fn every_error_is_listed_and_the_status_is_78() {
        let text = TEXT.replace("events: [", "evnts: [").replace("0s", "0x");
        let (verdict, printed) = run(&text, false);
        assert_eq!(verdict.exit_status(), 78);
        assert!(printed.contains("config.yaml:5:5: webhooks[0].evnts: unknown key"));
        assert!(printed.contains("config.yaml:10:25: webhooks[0].retry.schedule[0]:"));
        let (_, printed) = run(&text, true);
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["valid"], false);
        assert_eq!(report["errors"][0]["key"], "webhooks[0].event");
        assert_eq!(report["errors"][1]["line"], 5);
    }

    #[test]
    fn an_absent_file_is_a_configuration_error() {
        let mut out = Vec::new();
        let verdict = check(Some(Path::new("/nowhere/config.yaml")), false, &mut out).unwrap();
        assert_eq!(verdict.exit_status(), 78);
        let printed = String::from_utf8(out).unwrap();
        assert!(printed.starts_with("/nowhere/config.yaml: there is no configuration here"));
    }
}
