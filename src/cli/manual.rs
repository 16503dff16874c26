//! The manual page of config.yaml, project-webhooks-config(5).
//!
//! Constraint: the descriptions of single settings come from the table in
//! [`crate::config::settings`]. This file contains only the text around them.

use std::io::{self, Write};

use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::config::settings::{DefaultValue, SETTINGS};

/// The page up to the settings.
const BEGINNING: &str = r".SH NAME
project\-webhooks\-config \- the configuration of project\-webhooks
.SH SYNOPSIS
.nf
\&./config.yaml
/etc/project\-webhooks/config.yaml
/etc/project\-webhooks\-\fIINSTANCE\fR/config.yaml
.fi
.SH DESCRIPTION
The configuration is a YAML file. \fBproject\-webhooks check\fR validates it and prints where the
events of each webhook are sent. A running daemon reads it again on \fBproject\-webhooks reload\fR,
\fBsystemctl reload project\-webhooks\fR or SIGHUP. The daemon applies all changes, or none if the
file is invalid or a change needs a restart.
.PP
Unknown keys are errors. All errors are listed, with line, key and the allowed values.
.PP
Relative paths start from the directory of the configuration file. Durations need a unit: 500ms,
15s, 5m, 7d. Sizes may have a unit: 512KiB, 64MiB. A size without a unit is in bytes.
.PP
Settings that may be confidential (secrets, passwords, tokens, headers, URLs of webhooks) are strings,
or one of these references to a string:
.TP
{ credential: \fINAME\fR }
a systemd credential, $CREDENTIALS_DIRECTORY/\fINAME\fR (LoadCredential= in
.BR systemd.exec (5))
.TP
{ env: \fINAME\fR }
an environment variable
.TP
{ file: \fIPATH\fR }
a file; one line break at its end is ignored
.PP
A \fItemplate\fR is a path of up to 1,024 characters. Its captures {organization}, {project} and
{versionTag} each match one path component or a part of it, but never a name that starts with a dot.
Without {organization}, every project belongs to the organization \fIdefault\fR. Two templates that
can match the same path are an error.
.PP
An \fIevent\fR is one of project\-import, project\-import\-any, project\-publish,
project\-delete, project\-delete\-and\-unpublish, snapshot\-create, snapshot\-restore,
project\-save, project\-unpublish, snapshot\-delete and project\-move, or its label, such as
\(dqProject Publish\(dq.
.SH SETTINGS
";

/// The page after the settings.
const END: &str = r#".SH EXAMPLES
.nf
repository: { path: /srv/projects }
state_dir: /var/lib/project\-webhooks
webhooks:
  \- name: catalog
    event: Project Publish
    url: https://catalog.example.com/hooks/atscale
    secret: { credential: catalog\-secret }
.fi
.SH SEE ALSO
.BR project\-webhooks (1),
.BR systemd.exec (5)
"#;

pub(super) fn configuration(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        ".TH project\\-webhooks\\-config 5 \"\" \"project\\-webhooks {}\" \"File Formats\"",
        env!("CARGO_PKG_VERSION")
    )?;
    out.write_all(BEGINNING.as_bytes())?;
    let mut settings = Roff::new();
    for setting in SETTINGS {
        settings.control("TP", []);
        settings.text([bold(setting.key)]);
        settings.text(inlines(&format!(
            "{}.",
            capitalized(&setting.plain_meaning())
        )));
        settings.control("br", []);
        settings.text(inlines(&format!("Allowed: {}.", setting.allowed())));
        settings.control("br", []);
        settings.text(match setting.default {
            DefaultValue::Required => vec![roman("Required.")],
            _ => inlines(&format!("Default: {}.", setting.default_text())),
        });
    }
    out.write_all(settings.to_roff().as_bytes())?;
    out.write_all(END.as_bytes())
}

/// Capitalizes the first letter of a sentence. Code at its beginning stays as it is.
fn capitalized(sentence: &str) -> String {
    let mut characters = sentence.chars();
    match characters.next() {
        Some(first) => format!("{}{}", first.to_uppercase(), characters.as_str()),
        None => String::new(),
    }
}

/// Converts Markdown to roff. Code becomes bold.
fn inlines(markdown: &str) -> Vec<Inline> {
    let parts = markdown.split('`').enumerate();
    parts
        .map(|(index, part)| match index % 2 {
            0 => roman(part),
            _ => bold(part),
        })
        .collect()
}
