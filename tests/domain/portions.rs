//! A change that is recorded in portions has the same events, wherever the daemon ends.

use std::collections::{BTreeMap, HashSet};

use project_webhooks::domain::event::InferredEvent;
use project_webhooks::domain::infer::{Removals, infer};
use project_webhooks::domain::portions::{Change, Portion, order, split};
use project_webhooks::domain::project::{
    ContentHash, Document, FileState, Observed, ObservedFile, Problem, Recorded, Role, Stamp,
    Unreadable,
};
use proptest::prelude::*;

/// A file: its role and number, its content, its engineId, its change time.
type File = (Role, u8, u8, Option<u8>, i64);

fn state((role, number, content, engine, changed): File) -> FileState {
    let path = match role {
        Role::Definition | Role::Deleted => "o/p/project.xml".to_owned(),
        Role::Published => format!("o/p/published/{number}/project.xml"),
        Role::Snapshot => format!("o/p/snapshots/{number}.xml"),
    };
    let engine = engine.map(|engine| ("engineId".to_owned(), format!("e-{engine}")));
    FileState {
        path,
        role,
        tag: Some(number.to_string()),
        stamp: Stamp {
            inode: u64::from(number) + 1,
            size: 1,
            modified_ns: changed,
            changed_ns: changed,
        },
        read_ns: i64::MAX,
        hash: ContentHash::of(&[content, engine.is_some().into()]),
        document: Document {
            annotations: engine.into_iter().collect(),
            ..Document::default()
        },
        owner: "owner".to_owned(),
    }
}

fn files() -> impl Strategy<Value = Vec<FileState>> {
    let role = prop::sample::select(Role::ALL.to_vec());
    let file = (role, 0..3_u8, 0..4_u8, prop::option::of(0..2_u8), 0..6_i64);
    prop::collection::vec(file, 0..9).prop_map(|files| {
        // One file at each path.
        let states = files.into_iter().map(state);
        let by_path: BTreeMap<String, FileState> =
            states.map(|file| (file.path.clone(), file)).collect();
        by_path.into_values().collect()
    })
}

/// A directory of published copies that cannot be read.
fn hidden_copies() -> Unreadable {
    Unreadable {
        problem: Problem {
            path: "o/p/published".to_owned(),
            reason: "cannot be read".to_owned(),
            line: None,
            column: None,
            may_resolve: false,
        },
        hides: [Role::Published].into(),
    }
}

fn apply(record: &mut Recorded, portion: &Portion) {
    let mut files: BTreeMap<String, FileState> = record
        .files()
        .map(|file| (file.path.clone(), file.clone()))
        .collect();
    for before in portion.before.files() {
        assert_eq!(files.remove(&before.path).as_ref(), Some(before));
    }
    for after in portion.after.files() {
        assert!(files.insert(after.path.clone(), after.clone()).is_none());
    }
    *record = files.into_values().collect();
}

fn names(events: &[InferredEvent]) -> Vec<(&'static str, String, ContentHash)> {
    let names = events.iter().map(|event| {
        let subject = &event.subject;
        (event.kind.as_str(), subject.path.clone(), subject.hash)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// After each portion, an observation infers exactly the events of the other portions.
    #[test]
    fn an_observation_between_two_portions_infers_the_rest(
        before in files(),
        after in files(),
        is_confirmed in any::<bool>(),
        is_hidden in any::<bool>(),
    ) {
        let removals = if is_confirmed { Removals::Confirmed } else { Removals::Unconfirmed };
        let before: Recorded = before.into_iter().collect();
        let observed = Observed {
            files: after
                .into_iter()
                .filter(|file| file.role != Role::Deleted)
                .map(|file| (file.path.clone(), ObservedFile::Complete(file)))
                .collect(),
            unreadable: is_hidden.then(hidden_copies).into_iter().collect(),
        };
        let inference = infer(&before, &observed, removals);
        let events = order(inference.events.clone());
        prop_assert_eq!(names(&events), names(&inference.events));
        let change = Change {
            before: &before,
            after: &inference.record,
            events: &events,
            n_short_lived: 0,
        };
        let mut record = before.clone();
        let mut rest = &events[..];
        let mut read = HashSet::new();
        for portion in split(&change, 0, |_| 1) {
            let (recorded, others) = rest.split_at(portion.n_events);
            let mut n_new = 0;
            for event in recorded {
                n_new += usize::from(read.insert(event.payload()));
            }
            prop_assert!(n_new <= 1, "{:?}", recorded);
            rest = others;
            apply(&mut record, &portion);
            let again = infer(&record, &observed, removals);
            prop_assert_eq!(names(&again.events), names(rest), "after {:?}", recorded);
            prop_assert_eq!(&again.record, &inference.record);
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(record, inference.record);
    }
}
