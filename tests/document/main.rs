//! project.xml: accepted and rejected documents, encodings, bounds and properties.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

use std::borrow::Cow;

use project_webhooks::document::{Document, parse, text};

mod accepted;
mod bounds;
mod encodings;
mod properties;
mod rejected;

/// The sample of the reference, with what is elided there filled in.
const SAMPLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- comments may come first -->
<schema xmlns="http://www.atscale.com/xsd/project_2_0"
        xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
        name="Sales Insights" version="2.0"
        xsi:schemaLocation="http://www.atscale.com/xsd/project_2_0 project_2_0.xsd">
  <annotations>
    <annotation name="migrationVersion">2020.3.0.1</annotation>
    <annotation name="engineId">6f1f6f3e-0d5a-4a39-9a39-b4f2c1d0e8a7</annotation>
    <annotation name="version">version-to-be-generated-on-deploy</annotation>
  </annotations>
  <properties><visible>true</visible><caption>Sales Insights</caption></properties>
  <attributes><attribute id="a" name="Größe &amp; 尺寸 😀"><![CDATA[x < y]]></attribute></attributes>
  <dimensions/>
  <data-sets>
    <data-set name="nested" id="nested">
      <table><schema name="SALES" id="no">SALES</schema><name>orders</name><version>9</version></table>
      <annotations><annotation name="engineId">not-this-one</annotation></annotations>
    </data-set>
  </data-sets>
  <calculated-members/> <cubes></cubes>
</schema>
<!-- and after --><?done?>
"#;

fn document(name: Option<&str>, id: Option<&str>, annotations: &[(&str, &str)]) -> Document {
    Document {
        name: name.map(str::to_owned),
        id: id.map(str::to_owned),
        annotations: annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Document::default()
    }
}

fn annotated(annotations: &[(&str, &str)]) -> Document {
    document(None, None, annotations)
}

fn sample() -> Document {
    document(
        Some("Sales Insights"),
        None,
        &[
            ("migrationVersion", "2020.3.0.1"),
            ("engineId", "6f1f6f3e-0d5a-4a39-9a39-b4f2c1d0e8a7"),
            ("version", "version-to-be-generated-on-deploy"),
        ],
    )
}

/// Encodes a text in UTF-16, with or without a byte order mark.
fn utf16(text: &str, big: bool, mark: bool) -> Vec<u8> {
    let mark = if mark { "\u{FEFF}" } else { "" };
    mark.encode_utf16()
        .chain(text.encode_utf16())
        .flat_map(|unit| {
            if big {
                unit.to_be_bytes()
            } else {
                unit.to_le_bytes()
            }
        })
        .collect()
}

/// Replaces UTF-8 by UTF-16 in the declaration of a text.
fn redeclared(text: &str) -> String {
    text.replace("UTF-8", "UTF-16").replace("utf-8", "utf-16")
}

/// The line, the column and a part of the reason of a rejection.
type Expected = (u64, u64, &'static str);

fn assert_rejected(bytes: &[u8], (line, column, reason): Expected) {
    let shown = String::from_utf8_lossy(bytes);
    let malformed = parse(bytes).expect_err(&shown);
    assert!(
        malformed.reason.contains(reason),
        "{shown}: {malformed} does not say `{reason}`"
    );
    assert_eq!(
        (malformed.line, malformed.column),
        (line, column),
        "{shown}: {malformed}"
    );
}
