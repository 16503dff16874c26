//! The JSON Schema of config.yaml accepts and rejects the samples as the reader does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use project_webhooks::config::schema;
use serde_json::Value;

use crate::samples::directory;

/// Invalid samples that the schema accepts, with the reason.
const NOT_EXPRESSIBLE: &[(&str, &[&str])] = &[
    (
        "a schema does not know the order of amounts with units",
        &[
            "repository_mass_delete_after_long",
            "retention_max_state_size_small",
            "retention_too_long",
            "store_lease_too_short",
            "webhook_connect_timeout_longer_than_timeout",
        ],
    ),
    (
        "a schema does not read files and the environment",
        &[
            "admin_listen_unix_file",
            "repository_path_is_file",
            "state_dir_contains_repository",
            "repositories_overlap",
            "repositories_state_inside",
            "state_dir_inside_repository",
            "state_dir_is_file",
            "state_dir_is_repository",
            "webhook_auth_bearer_credential_unset",
            "webhook_headers_env_missing",
            "webhook_headers_line_end_in_file",
            "webhook_secret_credential_unset",
            "webhook_secret_file_directory",
            "webhook_secret_file_empty",
            "webhook_secret_file_missing",
            "webhook_secret_file_not_utf8",
            "webhook_template_file",
            "webhook_tls_ca_p521",
            "webhook_tls_client_p521",
            "webhook_tls_key_not_pem",
            "webhook_tls_mismatch",
            "webhook_tls_missing_file",
            "webhook_tls_not_pem",
            "webhook_tls_two_files",
            "webhook_url_env_missing",
            "webhook_url_file_not_a_url",
        ],
    ),
    (
        "the length counts in bytes and from the directory of the file",
        &["admin_listen_unix_long"],
    ),
    (
        "a schema does not compare two values, or two spellings of a key",
        &[
            "layout_overlap",
            "network_in_both_lists",
            "organizations_twice_in_two_forms",
            "repositories_same_name",
            "roles_with_sqlite",
            "webhook_headers_twice",
            "webhook_name_duplicate",
            "webhook_repositories_unknown",
        ],
    ),
    (
        "a schema does not compute with addresses",
        &["network_host_bits", "network_mapped_range"],
    ),
    (
        "globs and Jinja templates are languages of their own",
        &[
            "webhook_projects_bad_glob",
            "webhook_projects_exclude",
            "webhook_template_actor_not_always",
            "webhook_template_block",
            "webhook_template_block_blank",
            "webhook_template_syntax",
            "webhook_template_undefined",
            "webhook_template_unknown_filter",
            "webhook_when_bad_glob",
            "webhook_when_excludes_all",
            "webhook_when_excludes_included",
        ],
    ),
    (
        "a schema sees values, not how YAML writes them",
        &["root_duplicate_key", "yaml_anchor"],
    ),
];

/// The verdict of the schema on a sample, or the reason why YAML rejects it.
fn faults(schema: &jsonschema::Validator, bytes: &[u8]) -> Vec<String> {
    // Editors skip a byte order mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match serde_yaml::from_slice::<Value>(bytes) {
        Ok(value) => schema
            .iter_errors(&value)
            .map(|one| format!("{}: {one}", one.instance_path()))
            .collect(),
        Err(error) => vec![format!("not YAML: {error}")],
    }
}

#[test]
fn the_schema_judges_every_sample_as_the_reader_does() {
    let schema = jsonschema::draft202012::new(&schema()).unwrap();
    let mut accepted = BTreeSet::new();
    let mut rejected = Vec::new();
    for kind in ["valid", "invalid"] {
        for entry in fs::read_dir(directory(kind)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let bytes = fs::read(&path).unwrap();
            let faults = faults(&schema, &bytes);
            match kind {
                "valid" => rejected.extend(faults.iter().map(|fault| format!("{name}: {fault}"))),
                _ if faults.is_empty() => assert!(accepted.insert(name)),
                _ => {}
            }
        }
    }
    assert!(rejected.is_empty(), "{rejected:#?} {accepted:#?}");
    let named: Vec<&str> = NOT_EXPRESSIBLE
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let expected: BTreeSet<String> = named.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(named.len(), expected.len(), "a sample is named twice");
    assert_eq!(
        accepted, expected,
        "invalid samples that the schema accepts"
    );
}

#[test]
fn the_schema_accepts_the_shipped_configurations() {
    let schema = jsonschema::draft202012::new(&schema()).unwrap();
    for file in ["config.yaml", "packaging/config.yaml"] {
        let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert_eq!(faults(&schema, &bytes), [] as [&str; 0], "{file}");
    }
}
