//! Ids, names and times of events.

use std::collections::BTreeSet;

use project_webhooks::domain::event::{EventId, EventKind, Origin, timestamp};
use project_webhooks::domain::project::{ContentHash, ProjectKey, Stamp};

const STAMP: Stamp = Stamp {
    inode: 42,
    size: 2048,
    modified_ns: 1_777_000_000_000_000_000,
    changed_ns: 1_777_000_000_123_456_789,
};

fn id(tag: Option<&str>, stamp: &Stamp, repetition: u32) -> EventId {
    EventId::of(
        EventKind::SnapshotCreate,
        &ProjectKey::new("sales", "orders"),
        tag,
        stamp,
        &ContentHash::of(b"<schema/>"),
        repetition,
    )
}

#[test]
fn an_id_never_changes() {
    // Another value here would send an event twice under two ids: once before an update of the
    // program, and once when the updated program infers it again.
    assert_eq!(
        id(Some("v1"), &STAMP, 0).to_string(),
        "evt_b0972af8f3820422190274b562e3750e"
    );
}

#[test]
fn different_events_have_different_ids() {
    let key = |organization: &str, project: &str| ProjectKey::new(organization, project);
    let hash = ContentHash::of(b"<schema/>");
    let restore = EventKind::SnapshotRestore;
    let later = Stamp {
        changed_ns: STAMP.changed_ns + 1,
        ..STAMP
    };
    let elsewhere = Stamp { inode: 43, ..STAMP };
    let ids: Vec<EventId> = vec![
        id(Some("v1"), &STAMP, 0),
        id(Some("v2"), &STAMP, 0),
        id(Some(""), &STAMP, 0),
        id(None, &STAMP, 0),
        id(Some("v1"), &later, 0),
        id(Some("v1"), &elsewhere, 0),
        id(Some("v1"), &STAMP, 1),
        EventId::of(
            restore,
            &key("sales", "orders"),
            Some("v1"),
            &STAMP,
            &hash,
            0,
        ),
        EventId::of(
            restore,
            &key("sale", "sorders"),
            Some("v1"),
            &STAMP,
            &hash,
            0,
        ),
        EventId::of(
            restore,
            &key("sales", "ordersv1"),
            Some(""),
            &STAMP,
            &hash,
            0,
        ),
        EventId::of(
            restore,
            &key("sales", "orders"),
            Some("v1"),
            &STAMP,
            &ContentHash::of(b""),
            0,
        ),
    ];
    let different: BTreeSet<&EventId> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
    for id in &ids {
        let digits = id.0.strip_prefix("evt_").unwrap_or_default();
        assert_eq!(digits.len(), 32);
        // A dot in particular would end the id early in what is signed.
        assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }

    // Size and modification time follow from the content and the change time.
    let touched = Stamp {
        size: 1,
        modified_ns: 1,
        ..STAMP
    };
    assert_eq!(id(Some("v1"), &touched, 0), id(Some("v1"), &STAMP, 0));
}

#[test]
fn names_and_labels_match_the_contract() {
    let table = [
        ("project-delete", "Project Delete"),
        (
            "project-delete-and-unpublish",
            "Project Delete and Unpublish",
        ),
        ("project-import", "Project Import"),
        ("project-import-any", "Project Import - Any"),
        ("project-publish", "Project Publish"),
        ("snapshot-create", "Snapshot Create"),
        ("snapshot-restore", "Snapshot Restore"),
        ("project-save", "Project Save"),
        ("project-unpublish", "Project Unpublish"),
        ("snapshot-delete", "Snapshot Delete"),
        ("project-move", "Project Move"),
    ];
    let found = EventKind::ALL.map(|kind| (kind.as_str(), kind.label()));
    assert_eq!(found, table);
    for kind in EventKind::ALL {
        assert_eq!(EventKind::from_name(kind.as_str()), Some(kind));
        // The store and the listings use the same word as the headers.
        let json = serde_json::to_value(kind).ok();
        assert_eq!(json, Some(kind.as_str().into()));
    }
    assert_eq!(EventKind::from_name("Project Delete"), None);

    for origin in ["live", "catch-up", "redelivery", "test"] {
        let found = Origin::from_word(origin);
        assert_eq!(found.map(Origin::as_str), Some(origin));
        let json = serde_json::to_value(found).ok();
        assert_eq!(json, Some(origin.into()));
    }
    assert_eq!(Origin::from_word("Live"), None);
}

#[test]
fn a_parameter_has_one_spelling() {
    for kind in EventKind::ALL {
        for parameter in kind.parameters() {
            let json = serde_json::to_value(parameter).ok();
            assert_eq!(json, Some(parameter.as_str().into()));
        }
    }
}

#[test]
fn every_time_of_a_file_is_a_timestamp() {
    assert_eq!(timestamp(0).to_string(), "1970-01-01T00:00:00Z");
    // Whole microseconds, rounded down: `%f` of Python's strptime reads no more digits.
    assert_eq!(timestamp(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    assert_eq!(timestamp(1_999).to_string(), "1970-01-01T00:00:00.000001Z");
    assert!(timestamp(i64::MIN) < timestamp(0) && timestamp(0) < timestamp(i64::MAX));
}
