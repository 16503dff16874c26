use super::*;

#[test]
fn ids_are_those_of_the_event_and_valid_in_traceparent() {
    let event = EventId("evt_0123456789abcdef0123456789abcdef".to_owned());
    let first = AttemptSpan::of(&event, 7, 1);
    let again = AttemptSpan::of(&event, 7, 1);
    let second = AttemptSpan::of(&event, 7, 2);
    let other = AttemptSpan::of(&event, 8, 1);
    assert_eq!(first.traceparent(), again.traceparent());
    assert_ne!(first.id(), second.id());
    assert_ne!(first.id(), other.id());
    let parent = first.traceparent();
    let parts: Vec<&str> = parent.split('-').collect();
    assert_eq!(parts[..2], ["00", "0123456789abcdef0123456789abcdef"]);
    assert_eq!((parts[2].len(), parts[3]), (16, "01"));
    for odd in ["evt_00000000000000000000000000000000", "test", "evt_é"] {
        let trace = trace_of(&EventId(odd.to_owned()));
        assert_ne!(trace, TraceId::INVALID, "{odd}");
    }
}

#[test]
fn remembered_steps_have_a_bound() {
    let mut steps = Steps::default();
    for n in 0..3 * STEPS_MAX {
        steps.note((EventId(n.to_string()), None), Timestamp::UNIX_EPOCH);
    }
    assert_eq!(
        (steps.times.len(), steps.order.len()),
        (STEPS_MAX, STEPS_MAX)
    );
    // A repeated step is kept once, with its last time.
    let mut again = Steps::default();
    let repeated = (EventId("again".to_owned()), Some(1));
    again.note(repeated.clone(), Timestamp::UNIX_EPOCH);
    for n in 0..STEPS_MAX - 1 {
        again.note((EventId(n.to_string()), None), Timestamp::UNIX_EPOCH);
    }
    again.take(&repeated);
    again.note(repeated.clone(), Timestamp::MAX);
    again.note((EventId("last".to_owned()), None), Timestamp::UNIX_EPOCH);
    assert_eq!(again.take(&repeated), Some(Timestamp::MAX));
    let newest = (EventId((3 * STEPS_MAX - 1).to_string()), None);
    assert_eq!(steps.take(&newest), Some(Timestamp::UNIX_EPOCH));
}
