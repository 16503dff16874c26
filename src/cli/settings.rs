//! Every setting of config.yaml, in words.
//!
//! Constraint: one table for the README and for the manual page. Tests compare it with the README
//! and with the sample that has every setting, so that none is without its words. Texts are
//! Markdown: `code`, and links within the README.

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key path; names that the user chooses in capitals, `[]` for each item of a list.
    pub key: &'static str,
    /// What it may be.
    pub value: &'static str,
    /// What it is where it is not given.
    pub default: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

const fn setting(
    key: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting {
        key,
        value,
        default,
        meaning,
    }
}

/// All of them, in the order of the file.
pub const SETTINGS: &[Setting] = &[
    setting(
        "repository.path",
        "path",
        "required",
        "the root of the tree; need not be there yet",
    ),
    setting(
        "repository.layout.project",
        "template, or a list of up to 32",
        "`{organization}/{project}/project.xml`",
        "where definitions are; of two for one project the first template counts",
    ),
    setting(
        "repository.layout.published",
        "template, or a list of up to 32; or `[]`",
        "`{organization}/{project}/published/project.xml`, `{organization}/{project}/published/{versionTag}/project.xml`",
        "where published copies are",
    ),
    setting(
        "repository.layout.snapshot",
        "template, or a list of up to 32; or `[]`",
        "`{organization}/{project}/snapshots/{versionTag}.xml`, `{organization}/{project}/snapshots/{versionTag}/project.xml`",
        "where snapshots are",
    ),
    setting(
        "repository.settle",
        "duration, 1 ms to 1 h",
        "`1s`",
        "how long a project must be quiet before a removal counts",
    ),
    setting(
        "repository.rescan",
        "duration, 1 s to 7 d",
        "`10m`",
        "the time between comparisons of everything, whatever the system reported",
    ),
    setting(
        "repository.watch",
        "`auto`, `native`, `poll`",
        "`auto`",
        "by the system's change events, by comparison every `poll_interval`, or `auto`: the latter on network file systems",
    ),
    setting(
        "repository.poll_interval",
        "duration, 10 ms to 1 d",
        "`5s`",
        "the time between comparisons where changes are not reported",
    ),
    setting(
        "repository.max_file_size",
        "size, up to `1GiB`",
        "`64MiB`",
        "a larger file is reported, not sent",
    ),
    setting(
        "repository.on_first_start",
        "`adopt`, `report`",
        "`adopt`",
        "with nothing recorded: record what exists silently, or report it as imports, snapshots and published copies",
    ),
    setting(
        "state_dir",
        "path",
        "`$STATE_DIRECTORY`, else `./state`",
        "where the daemon keeps what it recorded and what it has to deliver; not inside the repository, and not on a network file system",
    ),
    setting(
        "organizations.NAME.name",
        "text",
        "the directory's name",
        "`organizationName` of the projects below the directory `NAME`",
    ),
    setting(
        "organizations.NAME.id",
        "text",
        "the directory's name",
        "their `organizationId`",
    ),
    setting(
        "username",
        "source, or a list",
        "`[owner]`",
        "the first source that yields a name: `owner`, `annotation:NAME`, `value:TEXT`",
    ),
    setting(
        "webhooks[].name",
        "text, up to 100 characters",
        "required",
        "unique; names the queue, so that another name starts a new one",
    ),
    setting(
        "webhooks[].event",
        "event",
        "this or `events`",
        "the label or the name of one event",
    ),
    setting(
        "webhooks[].events",
        "list of events, or `\"*\"`",
        "this or `event`",
        "several events, or all; `\"*\"` has Project Import only where there is `projects`",
    ),
    setting(
        "webhooks[].url",
        "URL",
        "required",
        "`http://` or `https://`, without user name and fragment",
    ),
    setting(
        "webhooks[].projects",
        "list of globs",
        "every project",
        "globs on `organization/project`; `*` does not cross the slash. Project Import needs it",
    ),
    setting(
        "webhooks[].format",
        "`multipart`, `form`, `xml`, `json`, `cloudevents`",
        "`multipart`",
        "the form of the body",
    ),
    setting(
        "webhooks[].headers.NAME",
        "value",
        "none",
        "headers of your own; not `webhook-*`, `ce-*` or those of HTTP itself",
    ),
    setting(
        "webhooks[].secret",
        "value, or a list of two",
        "none: not signed",
        "`whsec_` and base64, or text; two while it is rotated",
    ),
    setting(
        "webhooks[].timeout",
        "duration, 10 ms to 1 h",
        "`15s`",
        "the bound of the whole exchange",
    ),
    setting(
        "webhooks[].connect_timeout",
        "duration, 10 ms up to `timeout`",
        "`5s`, or `timeout` where that is shorter",
        "the bound of the beginning of the exchange: resolving the name, the connection, the proxy, TLS",
    ),
    setting(
        "webhooks[].retry.schedule",
        "list of 1 to 100 durations, up to 30 d",
        "`0s, 5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h`",
        "the delay before each attempt",
    ),
    setting(
        "webhooks[].concurrency",
        "1 to 1024",
        "`8`",
        "how many projects are served side by side",
    ),
    setting(
        "webhooks[].tls.ca",
        "path of a PEM file",
        "none",
        "authorities to trust beside the system's",
    ),
    setting(
        "webhooks[].tls.client_cert",
        "path of a PEM file",
        "none",
        "the certificate that the daemon shows",
    ),
    setting(
        "webhooks[].tls.client_key",
        "path of a PEM file",
        "none",
        "its key",
    ),
    setting(
        "webhooks[].enabled",
        "`true`, `false`",
        "`true`",
        "whether the webhook takes part",
    ),
    setting(
        "network.allow",
        "address or range, or a list of up to 1024",
        "none",
        "addresses that [may be connected to](#where-callbacks-may-go)",
    ),
    setting(
        "network.deny",
        "address or range, or a list of up to 1024",
        "none",
        "addresses that may not",
    ),
    setting(
        "retention.delivered",
        "duration, up to 3650 d",
        "`7d`",
        "how long delivered deliveries are kept",
    ),
    setting(
        "retention.dead",
        "duration, up to 3650 d",
        "`30d`",
        "how long dead ones are kept",
    ),
    setting(
        "admin.listen",
        "`ADDRESS:PORT`, or `unix:PATH`",
        "off",
        "where health and metrics are served: `/healthz`, `/readyz`, `/metrics`",
    ),
    setting(
        "log.level",
        "`error`, `warn`, `info`, `debug`, `trace`",
        "`info`",
        "the least severe level that is logged",
    ),
    setting(
        "log.format",
        "`auto`, `text`, `json`, `journald`",
        "`auto`",
        "`auto` is `journald` under systemd, else `text`; to standard error",
    ),
];
