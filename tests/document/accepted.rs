//! Accepted documents and the values that are read from them.

use super::*;

/// Accepted documents with their values.
pub fn accepted() -> Vec<(&'static str, Document)> {
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
        // An entity bomb is harmless while nothing refers to it.
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
fn well_formed_documents_are_accepted() {
    for (text, expected) in accepted() {
        assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
    }
}
