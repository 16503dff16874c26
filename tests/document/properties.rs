//! Properties of every prefix, every mutation and arbitrary bytes.

use proptest::prelude::*;

use super::accepted::accepted;
use super::*;

/// The offset behind the root element of an accepted document, found without the parser: nothing
/// in the table has a `>` of its own behind it except in comments and instructions.
fn root_end(text: &str) -> usize {
    let mut end = text.trim_end().len();
    loop {
        let rest = text.get(..end).unwrap_or_default().trim_end();
        end = if rest.ends_with("-->") {
            rest.rfind("<!--").unwrap_or_default()
        } else if rest.ends_with("?>") {
            rest.rfind("<?").unwrap_or_default()
        } else {
            return rest.len();
        };
    }
}

#[test]
fn every_strict_prefix_is_rejected_because_it_ends() {
    let mut checked = 0;
    for (text, expected) in accepted() {
        let wide = redeclared(text);
        let units = |text: &str| text.encode_utf16().count();
        let wide_root_end = units(wide.get(..root_end(&wide)).unwrap_or_default());
        let forms = [
            (text.as_bytes().to_vec(), root_end(text)),
            (utf16(&wide, false, true), 2 + 2 * wide_root_end),
            (utf16(&wide, true, false), 2 * wide_root_end),
        ];
        for (bytes, root_end) in forms {
            for length in 0..bytes.len() {
                let prefix = bytes.get(..length).unwrap_or_default();
                match parse(prefix) {
                    Ok(found) => {
                        assert!(length >= root_end, "{length} bytes of {text}");
                        assert_eq!(found, expected, "{length} bytes of {text}");
                    }
                    Err(malformed) => {
                        let reason = &malformed.reason;
                        let is_cut =
                            reason.starts_with("the file ends") || reason == "the file is empty";
                        assert!(is_cut, "{length} bytes of {text}: {malformed}");
                    }
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 5_000, "only {checked} prefixes");
}

/// Pieces that tell parsers apart, joined at random.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "<schema>",
        "</schema>",
        "<schema/>",
        "<a>",
        "</a>",
        "<a ",
        "b='c'",
        "b=\"",
        "'",
        "\"",
        ">",
        "/>",
        "<",
        "&",
        "&amp;",
        "&#65;",
        "&#x0;",
        "&x;",
        ";",
        "<!--",
        "-->",
        "--",
        "-",
        "<![CDATA[",
        "]]>",
        "]",
        "[",
        "<?",
        "?>",
        "<?xml version='1.0'?>",
        "<!DOCTYPE schema",
        "<!DOCTYPE schema [",
        "<!ENTITY a 'b'>",
        "<!",
        "<!ELEMENT",
        "%p;",
        " ",
        "\n",
        "\r",
        "é",
        "😀",
        "\u{FEFF}",
        "\0",
        "\u{FFFE}",
        "<annotations>",
        "</annotations>",
        "<annotation name='engineId'>",
        "</annotation>",
        "text",
    ]);
    prop::collection::vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

/// The sample with some bytes replaced, removed or repeated.
fn mutated_sample() -> impl Strategy<Value = Vec<u8>> {
    let mutation = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    prop::collection::vec(mutation, 1..4).prop_map(|mutations| {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (index, kind, byte) in mutations {
            let at = index.index(bytes.len().max(1));
            match kind {
                0 => bytes.truncate(at),
                1 => {
                    bytes.drain(at..bytes.len().min(at + 7));
                }
                2 => bytes.insert(at, byte),
                _ => {
                    if let Some(old) = bytes.get_mut(at) {
                        *old = byte;
                    }
                }
            }
        }
        bytes
    })
}

/// Asserts that a fault points into the text.
fn assert_sane(bytes: &[u8]) {
    if let Err(malformed) = parse(bytes) {
        assert!(malformed.line >= 1 && malformed.column >= 1);
        assert!(malformed.line <= bytes.len() as u64 + 1);
        assert!(malformed.column <= bytes.len() as u64 + 1);
        assert!(malformed.reason.len() < 400 && !malformed.reason.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_sane(&bytes);
        let _text = text(&bytes);
        let _text = text(&[b"<?xml encoding=".as_slice(), &bytes].concat());
    }

    #[test]
    fn fragments_never_panic_and_are_the_same_in_every_encoding(text in fragments()) {
        assert_sane(text.as_bytes());
        let wrapped = format!("<schema>{text}</schema>");
        assert_sane(wrapped.as_bytes());
        for text in [text, wrapped] {
            let Ok(expected) = parse(text.as_bytes()) else { continue };
            // The mark of the first encoding must not become a second one.
            let text = text.trim_start_matches('\u{FEFF}');
            for big in [false, true] {
                prop_assert_eq!(parse(&utf16(text, big, true)), Ok(expected.clone()));
                prop_assert_eq!(parse(&utf16(text, big, false)), Ok(expected.clone()));
            }
            prop_assert_eq!(parse(["\u{FEFF}", text].concat().as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn mutations_never_panic(bytes in mutated_sample()) {
        assert_sane(&bytes);
        let utf16: Vec<u8> = utf16(&String::from_utf8_lossy(&bytes), false, false);
        assert_sane(&utf16);
    }

    #[test]
    fn padding_with_zeros_is_rejected(zeros in 1..5000_usize) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes.resize(bytes.len() + zeros, 0);
        prop_assert!(parse(&bytes).is_err());
    }
}
