//! Encodings: found in the bytes, checked against the declaration.

use super::*;

#[test]
fn bytes_decide_the_encoding_and_the_declaration_must_agree() {
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
            assert_rejected(&lie, (1, 31, "but the file is in UTF-16"));
            let lone: Vec<u8> =
                [utf16("<schema>\n", big, mark), utf16("\u{1}", big, false)].concat();
            assert_rejected(&lone, (2, 1, "U+0001"));
        }
    }
    let swapped = utf16(&declared("UTF-16BE", "<schema/>"), false, true);
    assert_rejected(&swapped, (1, 31, "but the file is in UTF-16LE"));

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
            (1, 56, "not valid in the declared encoding"),
        ),
        (
            declared("UTF-16", "<schema/>").into(),
            (1, 31, "in another encoding"),
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
        assert_rejected(bytes, *expected);
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
        assert_rejected(bytes, *expected);
    }
}

#[test]
fn text_of_utf8_is_borrowed_and_the_rest_decoded() {
    assert!(matches!(text(SAMPLE.as_bytes()), Cow::Borrowed(SAMPLE)));
    let wide = redeclared(SAMPLE);
    for (big, mark) in [(false, false), (false, true), (true, false), (true, true)] {
        assert_eq!(text(&utf16(&wide, big, mark)), wide);
    }
    assert_eq!(
        text(b"<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"\xDC\"/>"),
        "<?xml version=\"1.0\" encoding = \"ISO-8859-1\"?><schema name=\"Ü\"/>"
    );
}

#[test]
fn text_of_utf8_keeps_its_bytes() {
    for utf8 in [
        "\u{feff}<schema/>",
        "<?xml version=\"1.0\"?><schema name=\"Ü\"/>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><schema/>",
        "<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema name=\"Ü\"/>",
        "<?xml version=\"1.0\" encoding=\"no such\"?><schema name=\"Ü\"/>",
        "<?xml encoding=",
        "<?xml encoding=\"?>",
        "",
    ] {
        assert_eq!(text(utf8.as_bytes()).as_bytes(), utf8.as_bytes());
    }
}

#[test]
fn text_replaces_invalid_utf8_and_ends_before_invalid_utf16() {
    assert_eq!(
        text(b"<schema name=\"\xFF\"/>"),
        "<schema name=\"\u{fffd}\"/>"
    );
    assert_eq!(text(&[0xFE, 0xFF, 0, b'<', 0xD8]), "<");
}
