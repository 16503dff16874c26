//! Encodings, told by the bytes and checked against the declaration.

use super::*;

#[test]
fn encodings_are_told_by_their_bytes_and_must_be_the_declared_ones() {
    let declared =
        |name: &str, body: &str| format!("<?xml version='1.0' encoding='{name}'?>{body}");
    let cafe = |name: &str| document(Some(name), None, &[]);
    let latin = |name: &str, byte: u8| {
        let mut bytes = declared(name, "<schema name='").into_bytes();
        bytes.push(byte);
        bytes.extend_from_slice(b"'/>");
        bytes
    };

    assert_eq!(
        parse("\u{FEFF}<schema name='é'/>".as_bytes()),
        Ok(cafe("é"))
    );
    for (big, own) in [(false, "utf-16le"), (true, "UTF-16BE")] {
        for mark in [false, true] {
            for text in [
                "<schema name='é'/>".to_owned(),
                "\n<schema name='é'/>".to_owned(),
                declared("UTF-16", "<schema name='é'/>"),
                declared(own, "<schema name='é'/>"),
            ] {
                assert_eq!(parse(&utf16(&text, big, mark)), Ok(cafe("é")), "{text}");
            }
            let lie = utf16(&declared("UTF-8", "<schema/>"), big, mark);
            assert_rejected(&lie, (1, 31, "but the file is in UTF-16"), false);
            let lone: Vec<u8> =
                [utf16("<schema>\n", big, mark), utf16("\u{1}", big, false)].concat();
            assert_rejected(&lone, (2, 1, "U+0001"), false);
        }
    }
    let swapped = utf16(&declared("UTF-16BE", "<schema/>"), false, true);
    assert_rejected(&swapped, (1, 31, "but the file is in UTF-16LE"), false);

    for name in ["ISO-8859-1", "latin1", "windows-1252"] {
        assert_eq!(parse(&latin(name, 0xE9)), Ok(cafe("é")), "{name}");
    }
    assert_eq!(parse(&latin("windows-1252", 0x80)), Ok(cafe("€")));
    assert_eq!(parse(&latin("ISO-8859-1", 0x80)), Ok(cafe("\u{80}")));
    assert_eq!(parse(&latin("ISO-8859-15", 0xA4)), Ok(cafe("€")));
    assert_eq!(parse(&latin("US-ASCII", b'e')), Ok(cafe("e")));

    let rejected: &[(Vec<u8>, Expected)] = &[
        (latin("UTF-8", 0xE9), (1, 53, "not valid UTF-8")),
        (
            latin("US-ASCII", 0xE9),
            (1, 56, "not of the declared encoding"),
        ),
        (
            declared("UTF-16", "<schema/>").into(),
            (1, 31, "single bytes"),
        ),
        (
            declared("Shift_JIS", "<schema/>").into(),
            (1, 31, "`Shift_JIS` is not supported"),
        ),
        (
            declared("nonsense", "<schema/>").into(),
            (1, 31, "`nonsense` is not supported"),
        ),
        (
            ["\u{FEFF}", &declared("ISO-8859-1", "<schema/>")]
                .concat()
                .into(),
            (1, 31, "byte order mark"),
        ),
        (b"<schema>\xFF</schema>".into(), (1, 9, "not valid UTF-8")),
        (
            b"<schema>\xC0\x80</schema>".into(),
            (1, 9, "not valid UTF-8"),
        ),
        (
            b"<schema>\xED\xA0\x80</schema>".into(),
            (1, 9, "not valid UTF-8"),
        ),
        (b"<schema></a>\xFF".into(), (1, 9, "end tag of `schema`")),
        (b"<\0\0\0s\0\0\0".into(), (1, 1, "UTF-32")),
        (b"\xFF\xFE\0\0<\0\0\0".into(), (1, 1, "UTF-32")),
        (b"\xFE\xFF\0<\xDC\0\0a".into(), (1, 2, "not valid UTF-16BE")),
        (b"\0\0\0\0\0\0\0\0".into(), (1, 1, "U+0000")),
    ];
    for (bytes, expected) in rejected {
        assert_rejected(bytes, *expected, false);
    }

    let cut: &[(&[u8], Expected)] = &[
        (b"\xEF", (1, 1, "inside a character")),
        (b"\xEF\xBB", (1, 1, "inside a character")),
        (b"\xFF", (1, 1, "first character")),
        (b"\0", (1, 1, "first character")),
        (b"<schema>\xE2\x82", (1, 9, "inside a character of UTF-8")),
        (b"\xFF\xFE<\0s", (1, 2, "inside a character of UTF-16LE")),
        (
            b"\xFE\xFF\0<\xD8\x3D",
            (1, 2, "inside a character of UTF-16BE"),
        ),
    ];
    for (bytes, expected) in cut {
        assert_rejected(bytes, *expected, true);
    }
}

#[test]
fn utf8_is_borrowed_and_the_rest_decoded() {
    assert!(matches!(text(SAMPLE.as_bytes()), Ok(Cow::Borrowed(SAMPLE))));
    let wide = redeclared(SAMPLE);
    assert_eq!(
        text(&utf16(&wide, true, true)).as_deref(),
        Ok(wide.as_str())
    );
    assert!(text(b"a\0").is_err());
    assert!(text(b"a\xFF").is_err());
}
