//! Bounds of depth, lengths and numbers.

use super::*;

const DEPTH_MAX: usize = 1_000;
const NAME_MAX: usize = 4 * 1024;
const ATTRIBUTES_MAX: usize = 10_000;
const VALUE_MAX: usize = 64 * 1024;
const ANNOTATIONS_MAX: usize = 64 * 1024;

#[test]
fn depth_names_and_attributes_are_bounded() {
    let nested = |levels: usize| {
        let inner = levels - 1;
        format!(
            "<schema>{}{}</schema>",
            "<a>".repeat(inner),
            "</a>".repeat(inner)
        )
    };
    assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
    assert_rejected(
        nested(DEPTH_MAX + 1).as_bytes(),
        (1, 9 + 3 * (DEPTH_MAX as u64 - 1), "levels deep"),
    );
    assert!(parse(nested(200_000).as_bytes()).is_err());

    let named = |length: usize| format!("<schema><{}/></schema>", "a".repeat(length));
    assert!(parse(named(NAME_MAX).as_bytes()).is_ok());
    assert_rejected(named(NAME_MAX + 1).as_bytes(), (1, 10, "longer than"));

    let with_attributes = |count: usize| {
        let attributes: String = (0..count).map(|number| format!(" a{number}=''")).collect();
        format!("<schema{attributes}/>")
    };
    assert!(parse(with_attributes(ATTRIBUTES_MAX).as_bytes()).is_ok());
    assert_rejected(
        with_attributes(ATTRIBUTES_MAX + 1).as_bytes(),
        (1, 1, "more than"),
    );
    // quick-xml compares more than 32 attributes by their hashes.
    let twice = with_attributes(100).replace(" a50=", " a7=");
    let column = twice.rfind("a7=").unwrap_or_default() as u64 + 1;
    assert_rejected(twice.as_bytes(), (1, column, "`a7` is given twice"));
}

fn annotations(values: &[(&str, &str)]) -> String {
    let inner: String = values
        .iter()
        .map(|(name, value)| format!("<annotation name='{name}'>{value}</annotation>"))
        .collect();
    format!("<schema><annotations>{inner}</annotations></schema>")
}

#[test]
fn values_are_bounded_and_identities_never_lost() {
    let long = "x".repeat(VALUE_MAX);
    for name in ["name", "id"] {
        assert!(parse(format!("<schema {name}='{long}'/>").as_bytes()).is_ok());
        assert_rejected(
            format!("<schema {name}='{long}x'/>").as_bytes(),
            (1, 9, "is longer than"),
        );
    }
    for name in ["engineId", "version"] {
        let text = annotations(&[(name, &format!("{long}x"))]);
        assert_rejected(text.as_bytes(), (1, 22, "is longer than"));
    }
    let nearly = "y".repeat(ANNOTATIONS_MAX - 4);
    let text = annotations(&[
        ("huge", &format!("{long}x")),
        ("a", "1"),
        ("b", &nearly),
        ("over", "2"),
        ("c", ""),
        ("d", ""),
        ("engineId", "e"),
        ("version", &long),
    ]);
    let expected = annotated(&[
        ("a", "1"),
        ("b", &nearly),
        ("c", ""),
        ("engineId", "e"),
        ("version", &long),
    ]);
    assert_eq!(parse(text.as_bytes()), Ok(expected));
}

#[test]
fn a_repeated_annotation_takes_no_room_of_others() {
    let large = "x".repeat(ANNOTATIONS_MAX / 2 - 16);
    let text = annotations(&[
        ("a", &large),
        ("a", &large),
        ("b", &large),
        ("author", "somebody"),
    ]);
    let expected = annotated(&[("a", &large), ("b", &large), ("author", "somebody")]);
    assert_eq!(parse(text.as_bytes()), Ok(expected));
}

/// The names of those that are left out need no memory.
#[test]
fn a_shorter_annotation_replaces_one_that_is_left_out() {
    let (long, nearly) = ("x".repeat(VALUE_MAX + 1), "y".repeat(ANNOTATIONS_MAX - 9));
    let text = annotations(&[
        ("huge", &long),
        ("huge", ""),
        ("b", &nearly),
        ("over", "2"),
        ("over", ""),
        ("over", "3"),
    ]);
    let expected = annotated(&[("huge", ""), ("b", &nearly), ("over", "")]);
    assert_eq!(parse(text.as_bytes()), Ok(expected));
}
