//! What a callback says: the parameters of an event (contract section 3).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::event::{EventKind, Parameter, timestamp};
use super::project::{FileState, ProjectKey};

/// The name and id of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its name.
    pub name: String,
    /// Its id, a UUID as a rule.
    pub id: String,
}

/// Where a username may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsernameSource {
    /// An annotation of the project.xml.
    Annotation(String),
    /// The file's owner.
    Owner,
    /// A fixed text.
    Value(String),
}

/// How projects, organizations and users are named in callbacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// The organizations by directory name.
    pub organizations: BTreeMap<String, Organization>,
    /// The sources of the username; the first that yields one counts.
    pub username: Vec<UsernameSource>,
}

/// The namespace of the project ids that are made up of directory names: a UUIDv5 of the URL
/// namespace and the program's name, so that every installation makes the same ones.
fn project_namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, b"urn:project-webhooks:project")
}

/// The parameters of an event about `subject`, in their order.
pub fn parameters(
    kind: EventKind,
    key: &ProjectKey,
    subject: &FileState,
    naming: &Naming,
) -> Vec<(Parameter, String)> {
    kind.parameters()
        .iter()
        .map(|parameter| (*parameter, value(*parameter, key, subject, naming)))
        .collect()
}

fn value(parameter: Parameter, key: &ProjectKey, subject: &FileState, naming: &Naming) -> String {
    let document = &subject.document;
    let organization = naming.organizations.get(&key.organization);
    match parameter {
        Parameter::Username => username(subject, &naming.username),
        Parameter::ProjectName => not_empty(document.name.as_deref())
            .unwrap_or(&key.project)
            .to_owned(),
        Parameter::OrganizationName => organization
            .map_or(&key.organization, |known| &known.name)
            .clone(),
        Parameter::OrganizationId => organization
            .map_or(&key.organization, |known| &known.id)
            .clone(),
        Parameter::VersionTag => version_tag(subject),
        Parameter::ProjectId => document
            .engine_id()
            .or_else(|| not_empty(document.id.as_deref()))
            .map_or_else(|| made_up_project_id(key), str::to_owned),
    }
}

/// The version tag of a published copy or a snapshot.
pub fn version_tag(subject: &FileState) -> String {
    subject
        .tag
        .clone()
        .or_else(|| subject.document.version().map(str::to_owned))
        .unwrap_or_else(|| {
            // To the second: a person reads it, and the file's own time is in the event.
            let seconds = subject.stamp.modified_ns.div_euclid(1_000_000_000);
            format!(
                "Published {}",
                timestamp(seconds.saturating_mul(1_000_000_000))
            )
        })
}

fn username(subject: &FileState, sources: &[UsernameSource]) -> String {
    sources
        .iter()
        .find_map(|source| match source {
            UsernameSource::Annotation(name) => subject.document.annotation(name),
            UsernameSource::Owner => not_empty(Some(&subject.owner)),
            UsernameSource::Value(text) => not_empty(Some(text)),
        })
        .unwrap_or_default()
        .to_owned()
}

fn not_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

/// The id of a project that has none: a UUIDv5 of its organization and project directory.
fn made_up_project_id(key: &ProjectKey) -> String {
    Uuid::new_v5(&project_namespace(), key.to_string().as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::project::{ContentHash, Document, Role, Stamp};

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

    fn only(parameter: Parameter, subject: &FileState, naming: &Naming) -> String {
        value(parameter, &key(), subject, naming)
    }

    #[test]
    fn every_event_has_exactly_its_parameters_in_their_order() {
        let subject = file(document(
            Some("Orders"),
            None,
            &[("engineId", "e-1"), ("version", "v7")],
        ));
        let deleted = "username=ada projectName=Orders organizationName=Sales \
                       organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 projectId=e-1";
        let table = [
            (EventKind::ProjectDelete, deleted),
            (EventKind::ProjectDeleteAndUnpublish, deleted),
            (EventKind::ProjectImport, deleted),
            (EventKind::ProjectImportAny, deleted),
            (
                EventKind::ProjectPublish,
                "username=ada projectName=Orders organizationName=Sales \
                 organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 versionTag=v7 projectId=e-1",
            ),
            (
                EventKind::SnapshotCreate,
                "username=ada projectName=Orders organizationName=Sales \
                 organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 versionTag=v7",
            ),
            (
                EventKind::SnapshotRestore,
                "username=ada projectName=Orders organizationName=Sales \
                 organizationId=0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10",
            ),
        ];
        assert_eq!(table.len(), EventKind::ALL.len());
        for (kind, expected) in table {
            let found: Vec<String> = parameters(kind, &key(), &subject, &naming())
                .into_iter()
                .map(|(parameter, value)| format!("{}={value}", parameter.as_str()))
                .collect();
            assert_eq!(found.join(" "), expected, "{kind}");
        }
    }

    #[test]
    fn a_project_is_named_by_its_root_attribute_or_its_directory() {
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
    fn a_project_is_identified_by_engine_id_or_id_or_its_place() {
        // The UUIDv5 of `sales/orders`; a change of it would give every such project a new id.
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
    fn an_organization_is_named_by_the_configuration_or_its_directory() {
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
    fn a_version_is_tagged_by_its_path_or_its_annotation_or_its_time() {
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
            assert_eq!(version_tag(&subject), expected, "{tag:?} {version:?}");
        }
    }

    #[test]
    fn a_user_is_named_by_the_first_source_that_yields_one() {
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
        fn only_the_username_can_be_empty_and_no_time_is_too_far(
            name in ".{0,8}",
            id in ".{0,8}",
            version in ".{0,8}",
            modified_ns in any::<i64>(),
        ) {
            let annotations = [("engineId", id.as_str()), ("version", version.as_str())];
            let mut subject = file(document(Some(&name), Some(&id), &annotations));
            subject.stamp.modified_ns = modified_ns;
            for kind in EventKind::ALL {
                for (parameter, value) in parameters(kind, &key(), &subject, &naming()) {
                    prop_assert!(!value.trim().is_empty(), "{} of {kind}", parameter.as_str());
                }
            }
        }
    }
}
