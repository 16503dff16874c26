//! The manual page of config.yaml, project-webhooks-config.5.
//!
//! Constraint: the settings come from their one table ([`crate::config::settings`]); only what holds for
//! several of them is written here. What the table has is Markdown and becomes roff: nothing in it
//! may be taken for a request.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::config::settings::{DefaultValue, SETTINGS};

/// What is said before the settings.
const BEGINNING: &str = r".SH NAME
project\-webhooks\-config \- the configuration of project\-webhooks
.SH SYNOPSIS
.nf
\&./config.yaml
/etc/project\-webhooks/config.yaml
/etc/project\-webhooks/\fIINSTANCE\fR.yaml
.fi
.SH DESCRIPTION
The configuration is a YAML file. \fBproject\-webhooks check\fR says whether it is valid and where
the events of each webhook go. A running daemon reads it again on \fBproject\-webhooks reload\fR,
\fBsystemctl reload project\-webhooks\fR or SIGHUP: it is applied as a whole, or not at all.
.PP
Unknown keys are errors. All errors are listed, with line, key and what is allowed.
.PP
Relative paths start from the directory of the file. Durations have a unit: 500ms, 15s, 5m, 7d.
Sizes too: 512KiB, 64MiB.
.PP
Where a \fIvalue\fR is allowed, it is a text or says where the text is:
.TP
{ credential: \fINAME\fR }
a systemd credential, $CREDENTIALS_DIRECTORY/\fINAME\fR (LoadCredential= in
.BR systemd.exec (5))
.TP
{ env: \fINAME\fR }
an environment variable
.TP
{ file: \fIPATH\fR }
a file; one line end at its end does not count
.PP
A \fItemplate\fR is a path of up to 1,024 characters with the captures {organization}, {project}
and {versionTag}, each for one path component or a part of one, never for a name that starts with a
dot. Without {organization} every project is in the organization \fIdefault\fR. Two templates that
can match the same path are an error.
.PP
An \fIevent\fR is one of project\-import, project\-import\-any, project\-publish,
project\-delete, project\-delete\-and\-unpublish, snapshot\-create and snapshot\-restore, or its
label, such as \(dqProject Publish\(dq.
.SH SETTINGS
";

/// What is said after them.
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

/// Writes the page.
pub(super) fn configuration(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        ".TH project\\-webhooks\\-config 5 \"\" \"project\\-webhooks {}\" \"File Formats\"",
        env!("CARGO_PKG_VERSION")
    )?;
    out.write_all(BEGINNING.as_bytes())?;
    for setting in SETTINGS {
        writeln!(out, ".TP\n\\fB{}\\fR", escape(setting.key))?;
        writeln!(out, "{}.", sentence(&setting.meaning_text()))?;
        writeln!(out, ".br\nAllowed: {}.", text(&setting.allowed()))?;
        match setting.default {
            DefaultValue::Required => writeln!(out, ".br\nRequired.")?,
            _ => writeln!(out, ".br\nDefault: {}.", text(&setting.default_text()))?,
        }
    }
    out.write_all(END.as_bytes())
}

/// A text that begins a sentence.
fn sentence(markdown: &str) -> String {
    let mut characters = markdown.chars();
    match characters.next() {
        // Code keeps its case.
        Some(first) if first != '`' => {
            text(&format!("{}{}", first.to_uppercase(), characters.as_str()))
        }
        _ => text(markdown),
    }
}

/// Markdown as roff: code is bold.
fn text(markdown: &str) -> String {
    let mut roff = String::new();
    let mut is_code = false;
    for part in markdown.split('`') {
        if is_code {
            let _ = write!(roff, "\\fB{}\\fR", escape(part));
        } else {
            roff.push_str(&escape(part));
        }
        is_code = !is_code;
    }
    roff
}

/// Characters that roff would take for something else. The texts are single lines, so that only
/// their first character could begin a request.
fn escape(plain: &str) -> String {
    let mut escaped = String::new();
    if plain.starts_with(['.', '\'']) {
        escaped.push_str("\\&");
    }
    for character in plain.chars() {
        match character {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_roff() {
        for (markdown, roff) in [
            ("a `code-word` here", "a \\fBcode\\-word\\fR here"),
            ("`webhooks[].name`", "\\fBwebhooks[].name\\fR"),
            (".hidden \\ one", "\\&.hidden \\e one"),
        ] {
            assert_eq!(text(markdown), roff);
        }
        assert_eq!(sentence("the one"), "The one");
        assert_eq!(sentence("`auto` is"), "\\fBauto\\fR is");
    }

    #[test]
    fn the_page_has_every_setting() {
        let mut page = Vec::new();
        configuration(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for setting in SETTINGS {
            let title = format!(".TP\n\\fB{}\\fR\n", escape(setting.key));
            assert_eq!(page.matches(&title).count(), 1, "{}", setting.key);
        }
        assert!(!page.contains('`'), "{page}");
    }
}
