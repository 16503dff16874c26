use proptest::prelude::*;

use super::*;

/// The sample of the reference, with what is elided there filled in.
const SAMPLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- comments may come first -->
<schema xmlns="http://www.atscale.com/xsd/project_2_0"
        xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
        name="Sales Insights" version="2.0"
        xsi:schemaLocation="http://www.atscale.com/xsd/project_2_0 project_2_0.xsd">
  <annotations>
    <annotation name="migrationVersion">2020.3.0.1</annotation>
    <annotation name="engineId">6f1f6f3e-0d5a-4a39-9a39-b4f2c1d0e8a7</annotation>
    <annotation name="version">version-to-be-generated-on-deploy</annotation>
  </annotations>
  <properties><visible>true</visible><caption>Sales Insights</caption></properties>
  <attributes><attribute id="a" name="Größe &amp; 尺寸 😀"><![CDATA[x < y]]></attribute></attributes>
  <dimensions/>
  <data-sets>
    <data-set name="nested" id="nested">
      <table><schema name="SALES" id="no">SALES</schema><name>orders</name><version>9</version></table>
      <annotations><annotation name="engineId">not-this-one</annotation></annotations>
    </data-set>
  </data-sets>
  <calculated-members/> <cubes></cubes>
</schema>
<!-- and after --><?done?>
"#;

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

fn annotated(annotations: &[(&str, &str)]) -> Document {
    document(None, None, annotations)
}

fn sample() -> Document {
    document(
        Some("Sales Insights"),
        None,
        &[
            ("migrationVersion", "2020.3.0.1"),
            ("engineId", "6f1f6f3e-0d5a-4a39-9a39-b4f2c1d0e8a7"),
            ("version", "version-to-be-generated-on-deploy"),
        ],
    )
}

/// UTF-16 in either byte order, with or without a mark.
fn utf16(text: &str, big: bool, mark: bool) -> Vec<u8> {
    let mark = if mark { "\u{FEFF}" } else { "" };
    mark.encode_utf16()
        .chain(text.encode_utf16())
        .flat_map(|unit| {
            if big {
                unit.to_be_bytes()
            } else {
                unit.to_le_bytes()
            }
        })
        .collect()
}

/// A text that declares itself to be UTF-16 where it declared UTF-8.
fn redeclared(text: &str) -> String {
    text.replace("UTF-8", "UTF-16").replace("utf-8", "utf-16")
}

/// Documents that are accepted, with what they say.
fn accepted() -> Vec<(&'static str, Document)> {
    let nothing = Document::default;
    vec![
        (SAMPLE, sample()),
        ("<schema/>", nothing()),
        ("<schema></schema >", nothing()),
        (" \r\n\t<schema\t/>\n", nothing()),
        ("<x:schema/>", nothing()),
        ("<x:schema xmlns:x='urn:x'></x:schema>", nothing()),
        (
            "<schema name='a' id='b'/>",
            document(Some("a"), Some("b"), &[]),
        ),
        ("<schema x:name='a' xml:id='b' Name='c'/>", nothing()),
        ("<schema name=''/>", document(Some(""), None, &[])),
        (
            "<schema\n  name\n=\n'a\tb\r\nc\rd\ne'\n/>",
            document(Some("a b c d e"), None, &[]),
        ),
        (
            "<schema name='&lt;&gt;&amp;&apos;&quot;&#65;&#x42;&#x0010FFFF;&#9;&#13;&#10;\"'/>",
            document(Some("<>&'\"AB\u{10FFFF}\t\r\n\""), None, &[]),
        ),
        ("<schema name='a>b'/>", document(Some("a>b"), None, &[])),
        ("<schema a='/>'>/></schema>", nothing()),
        ("<?xml version='1.0'?><schema/>", nothing()),
        ("<?xml version=\"1.1\" ?><schema/>", nothing()),
        (
            "<?xml\nversion = '1.0'\tencoding = 'utf-8' standalone = 'yes' ?><schema/>",
            nothing(),
        ),
        ("<?xml version='1.0' standalone='no'?><schema/>", nothing()),
        (
            "<?xml-stylesheet href='a'?><?a?><?b ?><?c ? > ??><schema/>",
            nothing(),
        ),
        ("<!----><!--->--><!-- - > <a> & ]]> --><schema/>", nothing()),
        ("<schema/><!-- - --> <?pi <&?>\n", nothing()),
        ("<!DOCTYPE schema><schema/>", nothing()),
        (
            "<!DOCTYPE schema SYSTEM \"http://example.com/a>b[c.dtd\" ><schema/>",
            nothing(),
        ),
        (
            "<!DOCTYPE schema PUBLIC '-//A//B' 'it'><schema/>",
            nothing(),
        ),
        (
            "<!DOCTYPE schema [<!ELEMENT schema ANY> %p; <!-- ]> ' --> <?p ]> ' ?>\n\
             <!ATTLIST schema name CDATA \"]>\"><!NOTATION n SYSTEM ']>'>\n\
             <!ENTITY % q ''><!ENTITY a \"]><schema/>\"><!ENTITY b SYSTEM \"file:///etc/passwd\">] >\n\
             <schema/>",
            nothing(),
        ),
        // Billion laughs are harmless while nobody laughs.
        (
            "<!DOCTYPE schema [<!ENTITY l 'l'><!ENTITY m '&l;&l;&l;'>]><schema>&amp;</schema>",
            nothing(),
        ),
        ("<schema>a ] ]] ]> > ]]&gt; ' \" b</schema>", nothing()),
        (
            "<schema><![CDATA[]]><![CDATA[<&]] ]>]]></schema>",
            nothing(),
        ),
        ("<schema><é·ñ a.b-c_d:e='ü'/><_/><:/></schema>", nothing()),
        (
            "<schema>\u{7F}\u{80}\u{FFFD}\u{10FFFF}\u{E000}</schema>",
            nothing(),
        ),
        (
            "<schema><annotations><annotation name='a'>\n b </annotation></annotations></schema>",
            annotated(&[("a", "\n b ")]),
        ),
        (
            "<schema><annotations><annotation name='a'>1<!-- x -->&#50;<![CDATA[<3&amp;]]>&lt;\
             <?x?>4<b>no<annotation name='c'>no</annotation></b>5\r\n6\r7</annotation>\
             </annotations></schema>",
            annotated(&[("a", "12<3&amp;<45\n6\n7")]),
        ),
        (
            "<schema><annotations><annotation name='a'/><annotation name='b'></annotation>\
             </annotations></schema>",
            annotated(&[("a", ""), ("b", "")]),
        ),
        (
            "<schema><annotations><annotation>no</annotation><other name='b'>no</other>\
             <annotation x='y' name='a&amp;b'>yes</annotation></annotations></schema>",
            annotated(&[("a&b", "yes")]),
        ),
        (
            "<schema><annotations><annotation name='a'>1</annotation><annotation name='a'>2\
             </annotation></annotations></schema>",
            annotated(&[("a", "1")]),
        ),
        (
            "<schema><a/><annotations/><annotations><annotation name='a'>1</annotation>\
             </annotations><b><annotation name='c'>no</annotation></b>\
             <annotation name='d'>no</annotation></schema>",
            annotated(&[("a", "1")]),
        ),
        (
            "<schema><x><annotations><annotation name='a'>no</annotation></annotations></x>\
             <annotations><annotations><annotation name='b'>no</annotation></annotations>\
             </annotations></schema>",
            nothing(),
        ),
        (
            "<p:schema><p:annotations><p:annotation name='a'>1</p:annotation></p:annotations>\
             </p:schema>",
            annotated(&[("a", "1")]),
        ),
    ]
}

#[test]
fn what_is_well_formed_is_accepted() {
    for (text, expected) in accepted() {
        assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
    }
}

/// Where and why a document is rejected: line, column, part of the reason.
type Expected = (u64, u64, &'static str);

fn assert_rejected(bytes: &[u8], (line, column, reason): Expected, truncated: bool) {
    let shown = String::from_utf8_lossy(bytes);
    let malformed = parse(bytes).expect_err(&shown);
    assert!(
        malformed.reason.contains(reason),
        "{shown}: {malformed} does not say `{reason}`"
    );
    assert_eq!(
        (malformed.line, malformed.column, malformed.truncated),
        (line, column, truncated),
        "{shown}: {malformed}"
    );
}

#[test]
fn what_is_not_well_formed_is_rejected_where_it_is_at_fault() {
    let table: &[(&str, Expected)] = &[
        // The root.
        ("<project/>", (1, 1, "must be `schema`")),
        ("\n <Schema/>", (2, 2, "must be `schema`")),
        ("<a:b:schema/>", (1, 1, "must be `schema`")),
        ("<schema/><schema/>", (1, 10, "may follow")),
        ("<schema></schema><a>", (1, 18, "may follow")),
        ("x<schema/>", (1, 1, "outside")),
        ("<schema/>\n x", (2, 2, "outside")),
        ("<schema/>&amp;", (1, 10, "outside")),
        ("<schema/><![CDATA[]]>", (1, 10, "outside")),
        ("\u{FEFF}\u{FEFF}<schema/>", (1, 1, "outside")),
        ("<!DOCTYPE schema>\u{FEFF}<schema/>", (1, 18, "outside")),
        ("<schema/>\0\0\0", (1, 10, "U+0000")),
        ("<schema/></schema>", (1, 10, "without its start tag")),
        ("</schema>", (1, 1, "without its start tag")),
        ("{}", (1, 1, "outside")),
        // Tags.
        (
            "<schema></Schema>",
            (1, 9, "end tag of `schema` is expected"),
        ),
        (
            "<schema><a></schema>",
            (1, 12, "end tag of `a` is expected"),
        ),
        ("<schema><a></a x=''></schema>", (1, 16, "not `x`")),
        ("<schema>< a/></schema>", (1, 10, "a name is expected")),
        ("<schema><1/></schema>", (1, 10, "a name is expected")),
        ("<schema><a-\u{D7}/></schema>", (1, 12, "not `×`")),
        ("<schema></></schema>", (1, 9, "end tag of `schema`")),
        ("<schema/ >", (1, 8, "`/>`")),
        ("<schema a='1' a='2'/>", (1, 15, "given twice")),
        ("<schema a='1'b='2'/>", (1, 14, "white space")),
        ("<schema a/>", (1, 9, "has no value")),
        ("<schema a b='1'/>", (1, 9, "has no value")),
        ("<schema a=1/>", (1, 11, "quoted")),
        ("<schema a='<'/>", (1, 12, "`<` is not allowed")),
        (
            "<schema a='x>\n<b c='1'/></schema>",
            (2, 1, "is a quote missing"),
        ),
        ("<schema 'a'/>", (1, 9, "a name is expected")),
        ("<schema a='&'/>", (1, 12, "`&amp;`")),
        ("<schema a='&x;'/>", (1, 12, "entity `x`")),
        // Text.
        ("<schema>]]></schema>", (1, 9, "`]]>`")),
        ("<schema>é\r\né]]></schema>", (2, 2, "`]]>`")),
        ("<schema>a & b</schema>", (1, 11, "`&amp;`")),
        ("<schema>&&amp;</schema>", (1, 9, "`&amp;`")),
        ("<schema>&nbsp;</schema>", (1, 9, "entity `nbsp`")),
        ("<schema>&amp</schema>", (1, 9, "lacks its `;`")),
        ("<schema>&Amp;</schema>", (1, 9, "entity `Amp`")),
        (
            "<!DOCTYPE schema [<!ENTITY a 'b'>]><schema>&a;</schema>",
            (1, 44, "never expanded"),
        ),
        ("<schema>&#0;</schema>", (1, 9, "U+0000")),
        ("<schema>&#xD800;</schema>", (1, 9, "U+D800")),
        ("<schema>&#xFFFE;</schema>", (1, 9, "U+FFFE")),
        ("<schema>&#x110000;</schema>", (1, 9, "not allowed")),
        (
            "<schema>&#99999999999999999999;</schema>",
            (1, 9, "not allowed"),
        ),
        ("<schema>&#X41;</schema>", (1, 9, "hexadecimal")),
        ("<schema>&#;</schema>", (1, 9, "hexadecimal")),
        ("<schema>&#x;</schema>", (1, 9, "hexadecimal")),
        ("<schema>&#6a;</schema>", (1, 9, "hexadecimal")),
        ("<schema>\n\ré\u{1}</schema>", (3, 2, "U+0001")),
        ("<schema a='\u{B}'/>", (1, 12, "U+000B")),
        ("<!--\u{1F}--><schema/>", (1, 5, "U+001F")),
        ("<schema>\u{FFFE}</schema>", (1, 9, "U+FFFE")),
        ("<schema><![CDATA[\u{FFFF}]]></schema>", (1, 18, "U+FFFF")),
        // The first fault counts, whichever pass finds it.
        ("<schema><a></b>\u{1}", (1, 12, "end tag of `a`")),
        ("<schema><a>\u{1}</b>", (1, 12, "U+0001")),
        // Comments, instructions, sections.
        ("<!-- a -- b --><schema/>", (1, 8, "`--`")),
        ("<!-- a ---><schema/>", (1, 8, "`--`")),
        ("<!-x--><schema/>", (1, 1, "`<!`")),
        ("<schema><!ELEMENT a></schema>", (1, 9, "`<!`")),
        ("<schema><![cdata[]]></schema>", (1, 9, "`<!`")),
        ("<??><schema/>", (1, 3, "a name is expected")),
        ("<? a?><schema/>", (1, 3, "a name is expected")),
        ("<?a/b?><schema/>", (1, 4, "`?>`")),
        (
            "<?XML version='1.0'?><schema/>",
            (1, 1, "must not be called"),
        ),
        (" <?xml version='1.0'?><schema/>", (1, 2, "very start")),
        (
            "<!----><?xml version='1.0'?><schema/>",
            (1, 8, "very start"),
        ),
        ("<schema/><?xml version='1.0'?>", (1, 10, "very start")),
        // The XML declaration.
        ("<?xml?><schema/>", (1, 6, "white space")),
        ("<?xml ?><schema/>", (1, 7, "`version`")),
        ("<?xml version='2.0'?><schema/>", (1, 16, "1.0")),
        ("<?xml version='1.'?><schema/>", (1, 16, "1.0")),
        ("<?xml encoding='UTF-8'?><schema/>", (1, 7, "`version`")),
        (
            "<?xml version='1.0' encoding=''?><schema/>",
            (1, 31, "name of an encoding"),
        ),
        (
            "<?xml version='1.0' encoding='8'?><schema/>",
            (1, 31, "name of an encoding"),
        ),
        (
            "<?xml version='1.0'encoding='UTF-8'?><schema/>",
            (1, 20, "`?>`"),
        ),
        (
            "<?xml version='1.0' standalone='yes' encoding='UTF-8'?><schema/>",
            (1, 38, "`?>`"),
        ),
        (
            "<?xml version='1.0' standalone='Yes'?><schema/>",
            (1, 33, "`standalone`"),
        ),
        ("<?xml version=1.0?><schema/>", (1, 15, "quoted")),
        ("<?xml version='1.0' ><schema/>", (1, 21, "`?>`")),
        // The DOCTYPE.
        ("<!doctype schema><schema/>", (1, 1, "`<!`")),
        ("<!DOCTYPE><schema/>", (1, 10, "white space")),
        ("<!DOCTYPE ><schema/>", (1, 11, "a name")),
        ("<!DOCTYPE schema SYSTEM><schema/>", (1, 24, "white space")),
        (
            "<!DOCTYPE schema PUBLIC 'a'><schema/>",
            (1, 28, "white space"),
        ),
        (
            "<!DOCTYPE schema PUBLIC 'é' 'a'><schema/>",
            (1, 26, "public identifier"),
        ),
        (
            "<!DOCTYPE schema [<schema/>]><schema/>",
            (1, 19, "declaration or `]`"),
        ),
        (
            "<!DOCTYPE schema [<!ENTITY a <b>]><schema/>",
            (1, 30, "`>`"),
        ),
        (
            "<!DOCTYPE schema [<!ENTITY>]><schema/>",
            (1, 27, "white space"),
        ),
        ("<!DOCTYPE schema [<!-- -- -->]><schema/>", (1, 24, "`--`")),
        ("<!DOCTYPE schema x><schema/>", (1, 18, "`>`")),
        (
            "<!DOCTYPE schema><!DOCTYPE schema><schema/>",
            (1, 18, "allowed once"),
        ),
        ("<schema/><!DOCTYPE schema>", (1, 10, "allowed once")),
        ("<schema><!DOCTYPE schema></schema>", (1, 9, "allowed once")),
    ];
    for (text, expected) in table {
        assert_rejected(text.as_bytes(), *expected, false);
    }
}

#[test]
fn what_ends_too_early_may_heal() {
    let table: &[(&str, Expected)] = &[
        ("", (1, 1, "is empty")),
        (" \n\t", (2, 2, "is empty")),
        ("\u{FEFF}", (1, 1, "is empty")),
        ("<?xml version='1.0'?>\n", (2, 1, "before its root")),
        ("<!-- -->", (1, 9, "before its root")),
        ("<", (1, 2, "a tag")),
        ("<?", (1, 3, "a processing instruction")),
        ("<?xml version", (1, 14, "the XML declaration")),
        ("<!", (1, 3, "markup")),
        ("<!DOC", (1, 6, "markup")),
        ("<!DOCTYPE schema [ <!ENT", (1, 25, "the DOCTYPE")),
        (
            "<schema name='a",
            (1, 16, "a tag that begins at line 1, column 1"),
        ),
        (
            "<schema>\n<a>",
            (2, 4, "the element `a` that begins at line 2, column 1"),
        ),
        ("<schema>\n<a>x</", (2, 7, "an end tag")),
        ("<schema>\n<a>x</a", (2, 8, "an end tag")),
        ("<schema>&am", (1, 12, "a reference")),
        ("<schema>&#1", (1, 12, "a character reference")),
        ("<schema><!-- -", (1, 15, "a comment")),
        ("<schema><![CDATA[ ]]", (1, 21, "a CDATA section")),
        ("<schema><![CD", (1, 14, "markup")),
        ("<schema/><", (1, 11, "a tag")),
        ("<schema/><!--", (1, 14, "a comment")),
    ];
    for (text, expected) in table {
        assert_rejected(text.as_bytes(), *expected, true);
    }
}

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
        false,
    );
    assert!(parse(nested(200_000).as_bytes()).is_err());

    let named = |length: usize| format!("<schema><{}/></schema>", "a".repeat(length));
    assert!(parse(named(NAME_MAX).as_bytes()).is_ok());
    assert_rejected(
        named(NAME_MAX + 1).as_bytes(),
        (1, 10, "longer than"),
        false,
    );

    let with_attributes = |count: usize| {
        let attributes: String = (0..count).map(|number| format!(" a{number}=''")).collect();
        format!("<schema{attributes}/>")
    };
    assert!(parse(with_attributes(ATTRIBUTES_MAX).as_bytes()).is_ok());
    assert_rejected(
        with_attributes(ATTRIBUTES_MAX + 1).as_bytes(),
        (1, 1, "more than"),
        false,
    );
    // Many attributes are compared in another way than few.
    let twice = with_attributes(100).replace(" a50=", " a7=");
    let column = twice.rfind("a7=").unwrap_or_default() as u64 + 1;
    assert_rejected(twice.as_bytes(), (1, column, "`a7` is given twice"), false);
}

#[test]
fn values_are_bounded_and_identities_never_lost() {
    let long = "x".repeat(VALUE_MAX);
    for name in ["name", "id"] {
        assert!(parse(format!("<schema {name}='{long}'/>").as_bytes()).is_ok());
        assert_rejected(
            format!("<schema {name}='{long}x'/>").as_bytes(),
            (1, 9, "is longer than"),
            false,
        );
    }
    let annotations = |values: &[(&str, &str)]| {
        let inner: String = values
            .iter()
            .map(|(name, value)| format!("<annotation name='{name}'>{value}</annotation>"))
            .collect();
        format!("<schema><annotations>{inner}</annotations></schema>")
    };
    for name in ["engineId", "version"] {
        let text = annotations(&[(name, &format!("{long}x"))]);
        assert_rejected(text.as_bytes(), (1, 22, "is longer than"), false);
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
fn no_strict_prefix_counts_and_every_one_may_heal() {
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
                        assert!(malformed.truncated, "{length} bytes of {text}: {malformed}")
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

/// That a verdict points into the text.
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
    }

    #[test]
    fn fragments_never_panic_and_mean_the_same_in_every_encoding(text in fragments()) {
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
    fn no_padding_of_zeros_counts(zeros in 1..5000_usize) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes.resize(bytes.len() + zeros, 0);
        prop_assert!(parse(&bytes).is_err());
    }
}
