//! The rows of the table of settings.
//!
//! The descriptions are Markdown. They use only code spans and links.

use super::Count::{self, List, OneOrList};
use super::DefaultValue::{AtMost, Described, Required, Values};
use super::ValueType::{
    self, Boolean, Duration, Event, Size, Sourced, Text, TextUpTo, Url, Whole, Word,
};
use super::{REPOSITORIES_MAX, REPOSITORY_NAME_MAX, Setting, WEBHOOK_NAME_MAX};
use crate::config::{BodyFormat, FirstStart, LOG_LEVELS, LogFormat, WatchMode};
use crate::domain::event::EventKind;
use crate::layout::TEMPLATES_MAX;

/// The values of the fields that a row does not set itself.
const ROW: Setting = Setting {
    key: "",
    value: Text("", None),
    count: Count::One,
    default: Required,
    needs_restart: false,
    meaning: "",
};

const PATH: ValueType = Text("a path", None);
const PEM_FILE: ValueType = Text("the path of a PEM file", None);
const TEMPLATE: ValueType = Text("a path template", None);
const VALUE_GLOB: ValueType = Text(
    "a glob on the value, such as `\"release-*\"` or `\"!svc-*\"`",
    None,
);
const ADDRESSES: ValueType = Text(
    "an address such as `10.1.2.3` or `\"fd00::1\"`, or a range such as `10.0.0.0/8`",
    None,
);

/// All settings, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "repository.path",
        value: PATH,
        meaning: "the root of the watched tree; it may be created or mounted later",
        ..ROW
    },
    Setting {
        key: "repository.name",
        value: TextUpTo(REPOSITORY_NAME_MAX),
        default: Described("`repository.path`"),
        needs_restart: true,
        meaning: "the name of the repository in listings and metrics if there are several, and in a PostgreSQL database; if two processes watch the same files by different paths, both need the same name",
        ..ROW
    },
    Setting {
        key: "repository.layout.project",
        value: TEMPLATE,
        count: OneOrList(1, TEMPLATES_MAX),
        default: Values(&["{organization}/{project}/project.xml"]),
        meaning: "the definitions; if two templates match for one project, the first wins",
        ..ROW
    },
    Setting {
        key: "repository.layout.published",
        value: TEMPLATE,
        count: OneOrList(0, TEMPLATES_MAX),
        default: Values(&[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ]),
        meaning: "the published copies",
        ..ROW
    },
    Setting {
        key: "repository.layout.snapshot",
        value: TEMPLATE,
        count: OneOrList(0, TEMPLATES_MAX),
        default: Values(&[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ]),
        meaning: "the snapshots",
        ..ROW
    },
    Setting {
        key: "repository.ignore",
        value: Text("a glob on a name, such as `\"*.bak\"`", None),
        count: OneOrList(0, 100),
        default: Values(&["lost+found", "#recycle", "@eaDir", ".*"]),
        meaning: "names that no capture of a template matches, such as those of a recycle bin. Captures never match a hidden name, one that starts with a dot. A name that a template spells out is not ignored",
        ..ROW
    },
    Setting {
        key: "repository.settle",
        value: Duration("1ms", "1h"),
        default: Values(&["1s"]),
        meaning: "how long a project must be idle until its missing files are reported as removed; after 20 times as long, they are reported even if the project is not idle",
        ..ROW
    },
    Setting {
        key: "repository.mass_delete_after",
        value: Duration("0s", "1d"),
        default: Values(&["1m"]),
        meaning: "how long removals are held if ten or more projects vanish together and more than half of the repository's projects are gone; `0s` turns this off. If all projects of the repository, at least three, are gone, the removals are held with any value: at least until a project is back, or until `project-webhooks accept`",
        ..ROW
    },
    Setting {
        key: "repository.rescan",
        value: Duration("1s", "7d"),
        default: Values(&["10m"]),
        meaning: "the time between full scans, which find changes that the system did not report",
        ..ROW
    },
    Setting {
        key: "repository.watch",
        value: Word(|| WatchMode::ALL.map(WatchMode::as_str).to_vec()),
        default: Values(&["auto"]),
        meaning: "how changes are noticed: `native` reads inotify (Linux only), `notify` uses the system's change events through the crate notify, `poll` scans every `poll_interval`; `auto` is `native` on Linux and `notify` elsewhere, and also scans network file systems every `poll_interval`",
        ..ROW
    },
    Setting {
        key: "repository.poll_interval",
        value: Duration("10ms", "1d"),
        default: Values(&["5s"]),
        meaning: "the time between scans while the system does not report all changes",
        ..ROW
    },
    Setting {
        key: "repository.max_file_size",
        value: Size("1B", "1GiB"),
        default: Values(&["64MiB"]),
        meaning: "larger files are logged and ignored",
        ..ROW
    },
    Setting {
        key: "repository.on_first_start",
        value: Word(|| FirstStart::ALL.map(FirstStart::as_str).to_vec()),
        default: Values(&["adopt"]),
        meaning: "what the first scan of a repository without a record does: `adopt` records existing files without events, `report` reports them as imports, snapshots and published copies",
        ..ROW
    },
    Setting {
        key: "repositories",
        value: Text("a mapping with the settings of `repository`", None),
        count: List(1, REPOSITORIES_MAX),
        default: Described("none; `repository` is used"),
        meaning: "several repositories instead of `repository`; all other settings apply to each of them",
        ..ROW
    },
    Setting {
        key: "state_dir",
        value: PATH,
        default: Described("`$STATE_DIRECTORY`, else `./state`"),
        needs_restart: true,
        meaning: "the directory of the SQLite database and the control socket; separate from all repositories, and not on a network file system",
        ..ROW
    },
    Setting {
        key: "store.postgres",
        value: Text(
            "a connection string such as `host=db.example.com dbname=webhooks user=projectwebhooks`, or a URL `postgresql://…`",
            None,
        ),
        default: Described("none; SQLite in `state_dir` keeps the state"),
        needs_restart: true,
        meaning: "the PostgreSQL database (version 13 or later) that keeps the state instead of SQLite",
        ..ROW
    },
    Setting {
        key: "store.password",
        value: Sourced,
        default: Described("none"),
        needs_restart: true,
        meaning: "the password of the database's user; commands such as `status` need it too",
        ..ROW
    },
    Setting {
        key: "store.tls",
        value: Word(|| vec!["require", "off"]),
        default: Described("`require`; `off` if all hosts are sockets or loopback addresses"),
        needs_restart: true,
        meaning: "whether the connection is encrypted; the system's certificate authorities verify the server's certificate",
        ..ROW
    },
    Setting {
        key: "store.lease",
        value: Duration("1s", "10m"),
        default: Values(&["10s"]),
        needs_restart: true,
        meaning: "how long a process may be unable to reach the database before a standby or the other senders take over from this process",
        ..ROW
    },
    Setting {
        key: "roles",
        value: Word(|| vec!["watch", "deliver"]),
        count: List(1, 2),
        default: Values(&["watch", "deliver"]),
        needs_restart: true,
        meaning: "with `store.postgres`, the tasks of this process: `watch` watches the repositories, or waits as a standby to take them over, `deliver` sends callbacks",
    },
    Setting {
        key: "organizations.NAME.name",
        value: Text("a string", None),
        default: Described("the directory's name"),
        meaning: "`organizationName` of the projects below the directory `NAME`",
        ..ROW
    },
    Setting {
        key: "organizations.NAME.id",
        value: Text("a string", None),
        default: Described("the directory's name"),
        meaning: "`organizationId` of the projects below the directory `NAME`",
        ..ROW
    },
    Setting {
        key: "username",
        value: Text(
            "`owner`, `annotation:NAME`, `value:TEXT`, `audit`, `audit:KEY`",
            Some("^(owner|annotation:.+|value:.+|audit|audit:[!-~]{1,31})$"),
        ),
        count: OneOrList(1, 100),
        default: Values(&["owner"]),
        meaning: "the first source that yields a name: the file's owner, an annotation in the \
            project.xml, a fixed text, or the user who made the change, according to the kernel's \
            audit records (with the key `project-webhooks` or KEY)",
        ..ROW
    },
    Setting {
        key: "webhooks[].name",
        value: TextUpTo(WEBHOOK_NAME_MAX),
        meaning: "a unique name; each name has its own queue, so a renamed webhook starts with an empty queue",
        ..ROW
    },
    Setting {
        key: "webhooks[].event",
        value: Event,
        default: Described("required, unless `events` is given"),
        meaning: "the event to deliver, by name or by label",
        ..ROW
    },
    Setting {
        key: "webhooks[].events",
        value: Event,
        count: OneOrList(1, EventKind::ALL.len()),
        default: Described("required, unless `event` is given"),
        meaning: "several events; `\"*\"` stands for all events except Project Save, Project Move, Project Unpublish and Snapshot Delete, which have to be named. `\"*\"` includes Project Import only if `projects` is given",
        ..ROW
    },
    Setting {
        key: "webhooks[].url",
        value: Url,
        meaning: "the URL to send callbacks to, without user name, password and fragment. A URL \
            from a credential, variable or file is never printed",
        ..ROW
    },
    Setting {
        key: "webhooks[].projects",
        value: Text(
            "a glob on `organization/project`, such as `\"sales/*\"`",
            None,
        ),
        count: OneOrList(1, 1000),
        default: Described("every project"),
        meaning: "the projects to deliver events of; `*` does not match a slash. Project Import needs this setting. A webhook that subscribes to Project Move or to deletes also gets those of a project that is not selected now, if an earlier event of the project was recorded for this webhook",
        ..ROW
    },
    Setting {
        key: "webhooks[].repositories",
        value: Text("the name of a repository", None),
        count: OneOrList(1, REPOSITORIES_MAX),
        default: Described("every repository"),
        meaning: "the repositories to deliver events of, if there are several (`repositories`). A webhook that subscribes to Project Move or to deletes also gets those of a project whose repository is not selected now, if an earlier event of the project was recorded for this webhook",
        ..ROW
    },
    Setting {
        key: "webhooks[].when.username",
        value: VALUE_GLOB,
        count: OneOrList(1, 1000),
        default: Described("every user"),
        meaning: "the values of the parameter `username` whose events are delivered; `!` excludes what its glob matches. A webhook that subscribes to deletes also gets those by other users, if an earlier event of the project was recorded for this webhook",
        ..ROW
    },
    Setting {
        key: "webhooks[].when.versionTag",
        value: VALUE_GLOB,
        count: OneOrList(1, 1000),
        default: Described("every version"),
        meaning: "the values of the parameter `versionTag` to deliver events with; `!` excludes what its glob matches. Events without the parameter are not filtered",
        ..ROW
    },
    Setting {
        key: "webhooks[].format",
        value: Word(BodyFormat::words),
        default: Values(&["multipart"]),
        meaning: "the format of the request body",
        ..ROW
    },
    Setting {
        key: "webhooks[].template.content_type",
        value: Text("a media type", None),
        default: Values(&["application/json"]),
        meaning: "the header `Content-Type` of the body, with `format: template` only",
        ..ROW
    },
    Setting {
        key: "webhooks[].template.body",
        value: Text("a Jinja template, or `{ file: PATH }`", None),
        default: Described("required with `format: template`"),
        meaning: "the template of the body; all attempts send the same bytes",
        ..ROW
    },
    Setting {
        key: "webhooks[].headers.NAME",
        value: Sourced,
        default: Described("none"),
        meaning: "additional request headers; not `webhook-*`, `ce-*` or those of HTTP itself",
        ..ROW
    },
    Setting {
        key: "webhooks[].secret",
        value: Sourced,
        count: OneOrList(1, 2),
        default: Described("none: requests are not signed"),
        meaning: "the signing secret: `whsec_` and base64, or raw text; two during a rotation",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.bearer",
        value: Sourced,
        default: Described("none"),
        meaning: "the token of the header `Authorization: Bearer …`; a webhook has one of `bearer`, `basic` and `oauth2`",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.basic.username",
        value: Sourced,
        default: Described("required with `basic`"),
        meaning: "the user name of the header `Authorization: Basic …`",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.basic.password",
        value: Sourced,
        default: Described("required with `basic`"),
        meaning: "the password of the header `Authorization: Basic …`",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.oauth2.token_url",
        value: Text("`http://HOST/…` or `https://HOST/…`", Some("^https?://")),
        default: Described("required with `oauth2`"),
        meaning: "the token endpoint of the authorization server, for the grant `client_credentials`",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.oauth2.client_id",
        value: Sourced,
        default: Described("required with `oauth2`"),
        meaning: "the id of the client",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.oauth2.client_secret",
        value: Sourced,
        default: Described("required with `oauth2`"),
        meaning: "the secret of the client",
        ..ROW
    },
    Setting {
        key: "webhooks[].auth.oauth2.scope",
        value: Text("scopes, separated by spaces", None),
        default: Described("none"),
        meaning: "the requested scope",
        ..ROW
    },
    Setting {
        key: "webhooks[].signed_headers",
        value: Boolean,
        default: Values(&["false"]),
        meaning: "whether requests also have `webhook-signed-headers`: the event and the parameters with a signature over them and the body; needs `secret`",
        ..ROW
    },
    Setting {
        key: "webhooks[].timeout",
        value: Duration("10ms", "1h"),
        default: Values(&["15s"]),
        meaning: "the time limit of an attempt",
        ..ROW
    },
    Setting {
        key: "webhooks[].connect_timeout",
        value: Duration("10ms", "1h"),
        // An available receiver accepts a connection within milliseconds. TCP repeats a lost first
        // packet after one second and after three seconds, so five seconds allow two losses.
        default: AtMost(&["5s"], "`timeout`"),
        meaning: "the time limit of connecting: name resolution, connection, proxy and TLS; at most `timeout`",
        ..ROW
    },
    Setting {
        key: "webhooks[].retry.schedule",
        value: Duration("0s", "30d"),
        count: List(1, 100),
        // The schedule that Standard Webhooks proposes.
        default: Values(&[
            "0s", "5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h",
        ]),
        meaning: "the delay before each attempt; if the last attempt fails, the delivery is dead",
        ..ROW
    },
    Setting {
        key: "webhooks[].concurrency",
        value: Whole(1, 1024),
        default: Values(&["8"]),
        meaning: "the maximum number of projects with a request in progress at the same time",
        ..ROW
    },
    Setting {
        key: "webhooks[].rate",
        value: Text(
            "the maximum number of requests per second, minute or hour, such as `10/s`, `600/m` or \
             `1000/h`, up to 100000",
            Some("^[0-9]+/[smh]$"),
        ),
        default: Described(
            "none; after answers with `Retry-After` and 429 or 503, the daemon finds a rate that the receiver accepts",
        ),
        meaning: "the maximum rate of requests, evenly spaced",
        ..ROW
    },
    Setting {
        key: "webhooks[].tls.ca",
        value: PEM_FILE,
        default: Described("none"),
        meaning: "certificate authorities to trust in addition to the system's, also a whole bundle; damaged certificates, and those with a key that the daemon does not support (such as P-521), are left out with a warning",
        ..ROW
    },
    Setting {
        key: "webhooks[].tls.ca_only",
        value: Boolean,
        default: Values(&["false"]),
        meaning: "whether only the authorities in `ca` are trusted, and not the system's",
        ..ROW
    },
    Setting {
        key: "webhooks[].tls.client_cert",
        value: PEM_FILE,
        default: Described("none"),
        meaning: "the client certificate, with its chain",
        ..ROW
    },
    Setting {
        key: "webhooks[].tls.client_key",
        value: PEM_FILE,
        default: Described("none"),
        meaning: "the private key of the client certificate",
        ..ROW
    },
    Setting {
        key: "webhooks[].enabled",
        value: Boolean,
        default: Values(&["true"]),
        meaning: "whether this webhook gets new events and its pending deliveries are sent; with `false`, new events are skipped and pending deliveries are kept",
        ..ROW
    },
    Setting {
        key: "network.allow",
        value: ADDRESSES,
        count: OneOrList(0, 1024),
        default: Described("none"),
        meaning: "addresses that callbacks may be sent to even if they are denied by default or by a less specific entry of `network.deny`",
        ..ROW
    },
    Setting {
        key: "network.deny",
        value: ADDRESSES,
        count: OneOrList(0, 1024),
        default: Described("none"),
        meaning: "addresses that callbacks may not be sent to; the most specific matching entry wins",
        ..ROW
    },
    Setting {
        key: "retention.delivered",
        value: Duration("0s", "3650d"),
        default: Values(&["7d"]),
        meaning: "how long delivered deliveries are kept",
        ..ROW
    },
    Setting {
        key: "retention.dead",
        value: Duration("0s", "3650d"),
        default: Values(&["30d"]),
        meaning: "how long dead and cancelled deliveries are kept",
        ..ROW
    },
    Setting {
        key: "retention.pending",
        value: Duration("1s", "3650d"),
        default: Described("none"),
        meaning: "how long a delivery may be pending; an older one becomes dead",
        ..ROW
    },
    Setting {
        key: "retention.max_state_size",
        value: Size("16MiB", "1TiB"),
        default: Described(
            "with SQLite, nine tenths of the space that the state can take, at least 256 MiB",
        ),
        meaning: "with SQLite, the size of the state at which [the oldest deliveries are removed early](operations.md#the-size-of-the-state)",
        ..ROW
    },
    Setting {
        key: "admin.listen",
        value: Text(
            "`ADDRESS:PORT` such as `127.0.0.1:9417` or `\"[::1]:9417\"`, or `unix:PATH`",
            None,
        ),
        default: Described("off"),
        meaning: "the address for health and metrics (`/healthz`, `/readyz`, `/metrics`), and the \
            [admin API](admin.md)",
        ..ROW
    },
    Setting {
        key: "admin.mode",
        value: Text("the permissions in octal digits, in quotes", None),
        default: Values(&["0660"]),
        meaning: "who may connect to the socket of `unix:PATH`",
        ..ROW
    },
    Setting {
        key: "admin.hosts",
        value: Text("a name without a port", None),
        count: OneOrList(0, 64),
        default: Described("none"),
        meaning: "further names by which clients address the server; IP addresses, `localhost` and the name of the machine are always allowed",
        ..ROW
    },
    Setting {
        key: "admin.token",
        value: Sourced,
        default: Described("none"),
        meaning: "the token that requests to the [admin API](admin.md) need as `Authorization: \
            Bearer …`, 16 characters or more. Without a token, the API answers only on a Unix \
            socket, to everybody who may connect to it",
        ..ROW
    },
    Setting {
        key: "otlp.endpoint",
        value: Text(
            "`http://HOST:PORT` or `https://HOST:PORT`",
            Some("^https?://[^@?#]+$"),
        ),
        default: Described("off"),
        needs_restart: true,
        meaning: "the collector that gets [traces](operations.md#traces) by OTLP over HTTP in protobuf, at `v1/traces` below this URL",
        ..ROW
    },
    Setting {
        key: "otlp.headers.NAME",
        value: Sourced,
        default: Described("none"),
        needs_restart: true,
        meaning: "request headers for the collector, such as `Authorization`",
        ..ROW
    },
    Setting {
        key: "log.level",
        value: Word(|| LOG_LEVELS.map(|(word, _)| word).to_vec()),
        default: Values(&["info"]),
        meaning: "the least severe level that is logged",
        ..ROW
    },
    Setting {
        key: "log.format",
        value: Word(|| LogFormat::ALL.map(LogFormat::as_str).to_vec()),
        default: Values(&["auto"]),
        meaning: "the format of the log; `text` and `json` go to standard error, and `journald` goes to the journal itself; `auto` is `journald` if standard error goes to the journal, else `text`",
        ..ROW
    },
];
