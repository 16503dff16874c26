//! Multipart bodies, parsed by Python, whose parser for mail accepts all of the standard.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use project_webhooks::config::Format;
use project_webhooks::webhook::body;
use serde_json::json;

use super::{Random, mutate, read_corpus, targets};
use crate::patience::Run as _;

/// The number of mutated bodies.
const N: usize = 2_000;

#[test]
fn python_parses_the_same_fields_from_multipart_bodies() {
    let mut inputs = targets::values();
    inputs.extend(read_corpus("bodies"));
    let mut random = Random(1);
    for _ in 0..N {
        let (one, other) = (random.below(inputs.len()), random.below(inputs.len()));
        inputs.push(mutate(
            &inputs[one],
            &inputs[other],
            targets::VALUES,
            &mut random,
        ));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bodies");
    let mut file = fs::File::create(&path).unwrap();
    for input in &inputs {
        let content = targets::content(input);
        let multipart = body::build(Format::Multipart, &content);
        let mut fields: Vec<(&str, String)> = content
            .parameters
            .iter()
            .map(|(parameter, value)| (parameter.as_str(), BASE64_STANDARD.encode(value)))
            .collect();
        fields.push(("payload", BASE64_STANDARD.encode(&content.payload)));
        let line = json!({
            "type": multipart.content_type,
            "body": BASE64_STANDARD.encode(multipart.bytes.joined()),
            "fields": fields,
        });
        writeln!(file, "{line}").unwrap();
    }
    drop(file);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/multipart.py");
    let Ok(ran) = Command::new("python3").arg(script).arg(&path).run() else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: multipart by Python: needs python3"
        );
        return;
    };
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{errors}");
    let n_read = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(n_read.trim(), inputs.len().to_string());
}
