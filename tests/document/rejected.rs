//! Rejected documents with the position and the reason of the first fault.

use super::*;

#[test]
fn documents_are_rejected_at_their_first_fault() {
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
        ("<schema/></schema>", (1, 10, "has no start tag")),
        ("</schema>", (1, 1, "has no start tag")),
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
        (
            "<schema><a></a x=''></schema>",
            (1, 12, "end tag of `a` is expected, not `a x=''`"),
        ),
        ("<schema>< a/></schema>", (1, 10, "a name is expected")),
        ("<schema><1/></schema>", (1, 10, "a name is expected")),
        (
            "<schema><a-\u{D7}/></schema>",
            (1, 12, "`×` is not allowed in a name"),
        ),
        ("<schema></></schema>", (1, 9, "end tag of `schema`")),
        ("<schema/ >", (1, 8, "`/` is not allowed in a name")),
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
            (1, 44, "only lt, gt, amp, apos and quot are"),
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
        ("<?a/b?><schema/>", (1, 4, "`/` is not allowed in a name")),
        (
            "<?XML version='1.0'?><schema/>",
            (1, 1, "must not be named"),
        ),
        (
            " <?xml version='1.0'?><schema/>",
            (1, 2, "only at the start of the file"),
        ),
        (
            "<!----><?xml version='1.0'?><schema/>",
            (1, 8, "only at the start of the file"),
        ),
        (
            "<schema/><?xml version='1.0'?>",
            (1, 10, "only at the start of the file"),
        ),
        // The XML declaration.
        ("<?xml?><schema/>", (1, 6, "`version`")),
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
            (1, 20, "white space"),
        ),
        (
            "<?xml version='1.0' standalone='yes' encoding='UTF-8'?><schema/>",
            (1, 38, "then perhaps `standalone`"),
        ),
        (
            "<?xml version='1.0' standalone='Yes'?><schema/>",
            (1, 33, "`standalone`"),
        ),
        ("<?xml version=1.0?><schema/>", (1, 15, "quoted")),
        // The DOCTYPE.
        ("<!doctype schema><schema/>", (1, 1, "`<!`")),
        ("<!DOCTYPE><schema/>", (1, 10, "a name")),
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
        assert_rejected(text.as_bytes(), *expected);
    }
}

#[test]
fn documents_that_end_too_early_are_rejected_at_their_end() {
    let table: &[(&str, Expected)] = &[
        ("", (1, 1, "is empty")),
        (" \n\t", (2, 2, "is empty")),
        ("\u{FEFF}", (1, 1, "is empty")),
        ("<?xml version='1.0'?>\n", (2, 1, "before its root")),
        ("<!-- -->", (1, 9, "before its root")),
        ("<", (1, 2, "a tag")),
        ("<?", (1, 3, "a processing instruction")),
        ("<?xml version", (1, 14, "the XML declaration")),
        (
            "<?xml version='1.0' ><schema/>",
            (1, 31, "the XML declaration"),
        ),
        ("<!", (1, 3, "markup")),
        ("<!DOC", (1, 6, "the DOCTYPE")),
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
        ("<schema>&#1", (1, 12, "a reference")),
        ("<schema><!-- -", (1, 15, "a comment")),
        ("<schema><![CDATA[ ]]", (1, 21, "a CDATA section")),
        ("<schema><![CD", (1, 14, "a CDATA section")),
        ("<schema/><", (1, 11, "a tag")),
        ("<schema/><!--", (1, 14, "a comment")),
    ];
    for (text, expected) in table {
        assert_rejected(text.as_bytes(), *expected);
    }
}
