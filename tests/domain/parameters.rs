//! The parameters of callbacks.

use std::collections::BTreeMap;

use project_webhooks::domain::event::{EventKind, InferredEvent, Parameter};
use project_webhooks::domain::parameters::{Naming, Organization, UsernameSource, parameters};
use project_webhooks::domain::project::{
    ContentHash, Document, FileState, KeptIds, ProjectKey, Role, Stamp,
};
use proptest::prelude::*;

/// A file as it is read from `sales/orders`: owned by ada, last changed in April 2026.
fn file(document: Document) -> FileState {
    FileState {
        path: "sales/orders/project.xml".to_owned(),
        role: Role::Definition,
        tag: None,
        stamp: Stamp {
            inode: 1,
            size: 2,
            modified_ns: 1_777_000_000_987_654_321,
            changed_ns: 1_777_000_001_000_000_000,
        },
        read_ns: 1_777_000_002_000_000_000,
        hash: ContentHash::of(b""),
        document,
        owner: "ada".to_owned(),
    }
}

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

fn key() -> ProjectKey {
    ProjectKey::new("sales", "orders")
}

fn naming() -> Naming {
    Naming {
        organizations: BTreeMap::from([(
            "sales".to_owned(),
            Organization {
                name: "Sales".to_owned(),
                id: "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10".to_owned(),
            },
        )]),
        username: vec![UsernameSource::Owner],
    }
}

/// An event about a file. A moved project was in the directory `returns` before.
fn about(kind: EventKind, subject: &FileState) -> InferredEvent {
    let from = ProjectKey::new("sales", "returns");
    InferredEvent {
        moved_from: (kind == EventKind::ProjectMove).then_some(from),
        ..InferredEvent::about(kind, subject.clone(), String::new())
    }
}

/// The value of one parameter, in a publish: that event has all of them.
fn only(parameter: Parameter, subject: &FileState, naming: &Naming) -> String {
    let event = InferredEvent::about(EventKind::ProjectPublish, subject.clone(), String::new());
    parameters(&event, &key(), None, naming)
        .into_iter()
        .find_map(|(found, value)| (found == parameter).then_some(value))
        .expect("a parameter of every publish")
}

#[test]
fn every_event_has_its_parameters_in_order() {
    let subject = file(document(
        Some("Orders"),
        None,
        &[("engineId", "e-1"), ("version", "v7")],
    ));
    let deleted = "username=ada projectName=Orders organizationName=Sales \
                   organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 projectId=e-1";
    let published = "username=ada projectName=Orders organizationName=Sales \
                     organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 versionTag=v7 projectId=e-1";
    let snapshot = "username=ada projectName=Orders organizationName=Sales \
                    organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 versionTag=v7";
    let table = [
        (EventKind::ProjectDelete, deleted),
        (EventKind::ProjectDeleteAndUnpublish, deleted),
        (EventKind::ProjectImport, deleted),
        (EventKind::ProjectImportAny, deleted),
        (EventKind::ProjectPublish, published),
        (EventKind::SnapshotCreate, snapshot),
        (
            EventKind::SnapshotRestore,
            "username=ada projectName=Orders organizationName=Sales \
             organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10",
        ),
        (EventKind::ProjectSave, deleted),
        (EventKind::ProjectUnpublish, published),
        (EventKind::SnapshotDelete, snapshot),
        (
            EventKind::ProjectMove,
            &format!("{deleted} previousProject=returns"),
        ),
    ];
    assert_eq!(table.len(), EventKind::ALL.len());
    for (kind, expected) in table {
        let event = about(kind, &subject);
        let found: Vec<String> = parameters(&event, &key(), None, &naming())
            .into_iter()
            .map(|(parameter, value)| format!("{}={value}", parameter.as_str()))
            .collect();
        assert_eq!(found.join(" "), expected, "{kind}");
    }
}

#[test]
fn the_project_name_is_the_root_attribute_or_the_directory() {
    let table = [
        (Some("Sales Insights"), "Sales Insights"),
        (Some("  padded "), "  padded "),
        (Some(""), "orders"),
        (Some(" \t"), "orders"),
        (None, "orders"),
    ];
    for (name, expected) in table {
        let subject = file(document(name, None, &[]));
        assert_eq!(
            only(Parameter::ProjectName, &subject, &naming()),
            expected,
            "{name:?}"
        );
    }
}

#[test]
fn a_published_copy_has_the_id_of_its_project_unless_its_own_differs() {
    let copy = |id, annotations| FileState {
        role: Role::Published,
        ..file(document(None, id, annotations))
    };
    let project = |annotations| file(document(None, Some("id-1"), annotations));
    let mut keeps_one = project(&[]);
    keeps_one.document.kept = KeptIds {
        engine_id: Some("e-1".to_owned()),
        ..KeptIds::default()
    }
    .boxed();
    let mut renamed = file(document(None, None, &[]));
    let made_up = "d8ef867f-0c05-5d8b-80c5-3ab8954c64f4";
    renamed.document.kept = KeptIds {
        made_up: Some(made_up.to_owned()),
        ..KeptIds::default()
    }
    .boxed();
    let table = [
        (copy(None, &[]), project(&[("engineId", "e-1")]), "e-1"),
        (copy(Some("id-2"), &[]), keeps_one.clone(), "e-1"),
        (copy(None, &[("engineId", "e-2")]), keeps_one, "e-2"),
        (copy(Some("id-2"), &[]), project(&[]), "id-2"),
        (copy(None, &[]), project(&[]), "id-1"),
        (copy(Some(" "), &[]), project(&[]), "id-1"),
        (copy(None, &[]), renamed.clone(), made_up),
        // The id that the import had, although the copy has one.
        (copy(None, &[("engineId", "e-2")]), renamed.clone(), made_up),
        (copy(None, &[("engineId", "e-2")]), project(&[]), "id-1"),
        (
            copy(None, &[("engineId", "E-1")]),
            project(&[("engineId", "e-1")]),
            "e-1",
        ),
    ];
    let id = |key: &ProjectKey, subject: &FileState, definition: &FileState| {
        let event = about(EventKind::ProjectPublish, subject);
        parameters(&event, key, Some(definition), &naming())
            .pop()
            .map(|(_, value)| value)
    };
    let elsewhere = ProjectKey::new("sales", "renamed");
    for (copy, definition, expected) in &table {
        assert_eq!(id(&elsewhere, copy, definition).as_deref(), Some(*expected));
    }
    // A definition has its own ids, whatever the project has now.
    let deleted = file(document(None, None, &[]));
    let successor = project(&[("engineId", "e-2")]);
    assert_eq!(id(&key(), &deleted, &successor).as_deref(), Some(made_up));
    assert_eq!(id(&elsewhere, &renamed, &renamed).as_deref(), Some(made_up));
}

#[test]
fn the_project_id_is_the_engine_id_or_the_id_or_made_up() {
    // The UUIDv5 of `sales/orders`. A change of it would give every such project a new id.
    let made_up = "d8ef867f-0c05-5d8b-80c5-3ab8954c64f4";
    type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a str);
    let table: [Case<'_>; 7] = [
        (Some("id-1"), &[("engineId", "e-1")], "e-1"),
        (Some("id-1"), &[("engineId", "\n e-1 ")], "e-1"),
        (Some("id-1"), &[("engineId", "")], "id-1"),
        (Some("id-1"), &[("engineid", "e-1")], "id-1"),
        (None, &[("engineId", "e-1")], "e-1"),
        (None, &[("engineId", " ")], made_up),
        (Some(" "), &[], made_up),
    ];
    for (id, annotations, expected) in table {
        let subject = file(document(None, id, annotations));
        assert_eq!(
            only(Parameter::ProjectId, &subject, &naming()),
            expected,
            "{id:?} {annotations:?}"
        );
    }
}

#[test]
fn the_organization_is_configured_or_the_directory() {
    let subject = file(Document::default());
    let unnamed = Naming::default();
    let (name, id) = (Parameter::OrganizationName, Parameter::OrganizationId);
    assert_eq!(only(name, &subject, &naming()), "Sales");
    assert_eq!(
        only(id, &subject, &naming()),
        "0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10"
    );
    assert_eq!(only(name, &subject, &unnamed), "sales");
    assert_eq!(only(id, &subject, &unnamed), "sales");
}

#[test]
fn the_version_tag_is_the_capture_or_the_annotation_or_the_time() {
    let placeholder = "version-to-be-generated-on-deploy";
    let by_time = "Published 2026-04-24T03:06:40Z";
    type Case<'a> = (Option<&'a str>, Option<&'a str>, &'a str);
    let table: [Case<'_>; 7] = [
        (Some("2026.1"), Some("v7"), "2026.1"),
        (Some("2026.1"), None, "2026.1"),
        (Some(placeholder), None, placeholder),
        (None, Some(" v7\n"), "v7"),
        (None, Some(placeholder), by_time),
        (None, Some("  version-to-be-generated-on-deploy "), by_time),
        (None, None, by_time),
    ];
    for (tag, version, expected) in table {
        let annotations: Vec<_> = version.iter().map(|text| ("version", *text)).collect();
        let mut subject = file(document(None, None, &annotations));
        subject.tag = tag.map(str::to_owned);
        let found = only(Parameter::VersionTag, &subject, &naming());
        assert_eq!(found, expected, "{tag:?} {version:?}");
    }
}

#[test]
fn the_username_is_the_first_source_that_yields_one() {
    let annotation = |name: &str| UsernameSource::Annotation(name.to_owned());
    let fixed = |text: &str| UsernameSource::Value(text.to_owned());
    let owner = || UsernameSource::Owner;
    let subject = file(document(
        None,
        None,
        &[("modifiedBy", " grace "), ("createdBy", "  ")],
    ));
    let ownerless = FileState {
        owner: String::new(),
        ..subject.clone()
    };
    let table = [
        (&subject, vec![owner()], "ada"),
        (&subject, vec![annotation("modifiedBy"), owner()], "grace"),
        (&subject, vec![owner(), annotation("modifiedBy")], "ada"),
        // An annotation that is empty or missing yields no user.
        (&subject, vec![annotation("createdBy"), owner()], "ada"),
        (
            &subject,
            vec![annotation("nobody"), fixed("robot")],
            "robot",
        ),
        (&subject, vec![fixed(""), fixed("robot")], "robot"),
        (&ownerless, vec![owner(), fixed("robot")], "robot"),
        (&ownerless, vec![owner()], ""),
        (&subject, vec![], ""),
    ];
    for (subject, username, expected) in table {
        let naming = Naming {
            username: username.clone(),
            ..Naming::default()
        };
        assert_eq!(
            only(Parameter::Username, subject, &naming),
            expected,
            "{username:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_parameter_but_the_username_is_empty(
        name in ".{0,8}",
        id in ".{0,8}",
        version in ".{0,8}",
        modified_ns in any::<i64>(),
    ) {
        let annotations = [("engineId", id.as_str()), ("version", version.as_str())];
        let mut subject = file(document(Some(&name), Some(&id), &annotations));
        subject.stamp.modified_ns = modified_ns;
        for kind in EventKind::ALL {
            let event = about(kind, &subject);
            for (parameter, value) in parameters(&event, &key(), None, &naming()) {
                prop_assert!(!value.trim().is_empty(), "{} of {kind}", parameter.as_str());
            }
        }
    }
}
