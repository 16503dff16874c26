//! Parses one record of the kernel's audit log.
//!
//! Constraint: no user can forge a field. The kernel writes a value that a user chose, such as a
//! file name, in double quotes if it has only visible ASCII characters without quotes, else in
//! hexadecimal digits. If a field is repeated, the first one is used, because the kernel writes its
//! own fields first.

/// `AUDIT_SYSCALL` of linux/audit.h: a system call.
pub(super) const SYSCALL: u16 = 1300;
/// `AUDIT_PATH`: a path of the call.
pub(super) const PATH: u16 = 1302;
/// `AUDIT_EOE`: the end of the records of a call.
pub(super) const END: u16 = 1320;
/// `AUDIT_URINGOP`: an operation of io_uring.
pub(super) const URING: u16 = 1336;
/// `AUDIT_OPENAT2`: the flags of openat2(2).
pub(super) const OPENAT2: u16 = 1337;

/// The login user id of a process without a login.
const UNSET: u32 = u32::MAX;

/// The maximum length of a decoded text, in bytes. A longer text is ignored.
const TEXT_MAX: usize = 8 * 1024;

/// Identifies the records of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EventKey {
    /// The start of the system call, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The serial number of the event since the machine started.
    pub serial: u64,
}

/// The parsed part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Call(Box<CallFields>),
    /// The flags of openat2(2).
    OpenFlags(u64),
    Path(PathItem),
    End,
}

/// The fields of a system call's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CallFields {
    pub has_succeeded: bool,
    /// The architecture and the number of the system call. `None` for io_uring.
    pub number: Option<(u32, u32)>,
    pub arguments: [u64; 4],
    /// The number of path records that belong to the call.
    pub n_items: usize,
    /// The login user id. `None` without a login, and for io_uring, whose records lack the id.
    pub login: Option<u32>,
    pub effective: u32,
    pub pid: u32,
    /// The path of the program, as the kernel reports it. Empty if the record has none.
    pub program: String,
    /// The keys of the audit rules that matched.
    pub keys: Vec<String>,
}

/// The role of a path in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemKind {
    Parent,
    Create,
    Delete,
    Normal,
    Other,
}

/// A path record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathItem {
    pub kind: ItemKind,
    /// The path as the caller wrote it, if any.
    pub name: Option<Vec<u8>>,
    /// The major and minor number of the device, and the inode. `None` if the record lacks them.
    pub node: Option<((u32, u32), u64)>,
}

/// Parses a record. Returns `None` if it is malformed or its type is not used.
pub(super) fn parse(kind: u16, text: &[u8]) -> Option<(EventKey, Body)> {
    if !matches!(kind, SYSCALL | PATH | END | URING | OPENAT2) {
        return None;
    }
    let (key, rest) = prefix(text)?;
    let fields = Fields(rest);
    let body = match kind {
        SYSCALL | URING => Body::Call(Box::new(call(&fields)?)),
        PATH => Body::Path(path(&fields)?),
        OPENAT2 => Body::OpenFlags(octal(fields.get(b"oflag")?)?),
        _ => Body::End,
    };
    Some((key, body))
}

/// Parses `audit(SECONDS.MILLISECONDS:SERIAL): `.
fn prefix(text: &[u8]) -> Option<(EventKey, &[u8])> {
    let rest = text.strip_prefix(b"audit(")?;
    let end = rest.iter().position(|byte| *byte == b')')?;
    let stamp = std::str::from_utf8(rest.get(..end)?).ok()?;
    let (time, serial) = stamp.split_once(':')?;
    let (seconds, milliseconds) = time.split_once('.')?;
    let seconds: i64 = seconds.parse().ok()?;
    let milliseconds: i64 = milliseconds.parse().ok()?;
    let key = EventKey {
        time_ms: seconds.checked_mul(1000)?.checked_add(milliseconds)?,
        serial: serial.parse().ok()?,
    };
    let rest = rest.get(end + 1..)?;
    Some((key, rest.strip_prefix(b":").unwrap_or(rest)))
}

fn call(fields: &Fields<'_>) -> Option<CallFields> {
    let number = match (fields.get(b"arch"), fields.number(b"syscall")) {
        (Some(arch), Some(number)) => Some((hexadecimal(arch)?.try_into().ok()?, number)),
        _ => None,
    };
    let argument = |name: &[u8]| fields.get(name).and_then(hexadecimal).unwrap_or(0);
    Some(CallFields {
        // A call that never returns, such as exit_group(2), has no result.
        has_succeeded: fields.get(b"success") == Some(b"yes"),
        number,
        arguments: [
            argument(b"a0"),
            argument(b"a1"),
            argument(b"a2"),
            argument(b"a3"),
        ],
        n_items: usize::try_from(fields.number(b"items")?).ok()?,
        login: fields.number(b"auid").filter(|auid| *auid != UNSET),
        effective: fields.number(b"euid")?,
        pid: fields.number(b"pid")?,
        program: text_of(fields.get(b"exe")),
        keys: keys(fields.get(b"key")),
    })
}

fn path(fields: &Fields<'_>) -> Option<PathItem> {
    let kind = match fields.get(b"nametype")? {
        b"PARENT" => ItemKind::Parent,
        b"CREATE" => ItemKind::Create,
        b"DELETE" => ItemKind::Delete,
        b"NORMAL" => ItemKind::Normal,
        _ => ItemKind::Other,
    };
    let device = fields.get(b"dev").and_then(device);
    let inode = fields.get(b"inode").and_then(decimal);
    Some(PathItem {
        kind,
        name: fields.get(b"name").and_then(decoded),
        node: device.zip(inode),
    })
}

/// The fields of a record: `name=value`, separated by a blank, a newline, or the byte 0 or 0x1d.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Returns the value of the first field with this name.
    fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        let separator = |byte: &u8| matches!(byte, b' ' | b'\n' | 0 | 0x1d);
        self.0
            .split(separator)
            .find_map(|field| field.strip_prefix(name)?.strip_prefix(b"="))
    }

    fn number(&self, name: &[u8]) -> Option<u32> {
        decimal(self.get(name)?)?.try_into().ok()
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn octal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

/// Parses `MAJOR:MINOR`, both hexadecimal.
fn device(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((number(major)?, number(minor)?))
}

/// Decodes a quoted or hexadecimal value.
///
/// Returns `None` for other values, such as `(null)`.
fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    if let Some(quoted) = value.strip_prefix(b"\"") {
        let quoted = quoted.strip_suffix(b"\"")?;
        return (quoted.len() <= TEXT_MAX && !quoted.contains(&b'"')).then(|| quoted.to_vec());
    }
    if value.is_empty() || !value.len().is_multiple_of(2) || value.len() / 2 > TEXT_MAX {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    };
    value.chunks(2).map(byte).collect()
}

fn text_of(value: Option<&[u8]>) -> String {
    let bytes = value.and_then(decoded).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the keys in a field. The kernel separates keys by the byte 1.
fn keys(value: Option<&[u8]>) -> Vec<String> {
    let bytes = value.and_then(decoded).unwrap_or_default();
    bytes
        .split(|byte| *byte == 1)
        .filter(|key| !key.is_empty())
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "audit(1795908599.695:9): arch=c000003e syscall=257 success=yes exit=3 \
        a0=ffffff9c a1=55d91e5aeac0 a2=241 a3=1b6 items=2 ppid=16297 pid=16410 auid=1001 uid=0 gid=0 \
        euid=7 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=1 comm=\"bash\" \
        exe=\"/usr/bin/bash\" key=\"project-webhooks\"";

    fn call_of(text: &str) -> Option<CallFields> {
        match parse(SYSCALL, text.as_bytes())?.1 {
            Body::Call(call) => Some(*call),
            _ => None,
        }
    }

    fn name_of(value: &str) -> Option<Vec<u8>> {
        let text = format!(
            "audit(1.2:3): item=1 name={value} inode=5 dev=fe:0a mode=0100644 nametype=CREATE"
        );
        match parse(PATH, text.as_bytes())?.1 {
            Body::Path(item) => item.name,
            _ => None,
        }
    }

    #[test]
    fn a_call_has_its_users_program_and_key() {
        let call = call_of(CALL).unwrap();
        assert!(call.has_succeeded);
        assert_eq!(call.number, Some((0xc000_003e, 257)));
        assert_eq!((call.arguments[2], call.n_items), (0x241, 2));
        assert_eq!(
            (call.login, call.effective, call.pid),
            (Some(1001), 7, 16410)
        );
        assert_eq!(call.program, "/usr/bin/bash");
        assert_eq!(call.keys, ["project-webhooks"]);
        let unset = call_of(&CALL.replace("auid=1001", "auid=4294967295")).unwrap();
        assert_eq!(unset.login, None);
        let two = CALL.replace("\"project-webhooks\"", "610162");
        assert_eq!(call_of(&two).unwrap().keys, ["a", "b"]);
    }

    #[test]
    fn a_name_cannot_forge_a_field() {
        // A program whose name contains fields arrives as one token of hexadecimal digits.
        let forged: String = "x\" auid=0 euid=0 key=\"k"
            .bytes()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let text = CALL.replace("\"/usr/bin/bash\"", &forged);
        let call = call_of(&text).unwrap();
        assert_eq!((call.login, call.effective), (Some(1001), 7));
        assert_eq!(call.program, "x\" auid=0 euid=0 key=\"k");
        // Even if a value contained blanks, the kernel's own fields would come first.
        let text = CALL.replace("\"/usr/bin/bash\"", "\"a\" auid=0 euid=0 pid=1");
        let call = call_of(&text).unwrap();
        assert_eq!(
            (call.login, call.effective, call.pid),
            (Some(1001), 7, 16410)
        );
    }

    /// Encodes a text as the kernel does.
    fn encoded(text: &[u8]) -> String {
        let is_plain = |byte: &u8| (0x21..0x7f).contains(byte) && *byte != b'"';
        match text.iter().all(is_plain) {
            true => format!("\"{}\"", String::from_utf8_lossy(text)),
            false => text.iter().map(|byte| format!("{byte:02X}")).collect(),
        }
    }

    proptest::proptest! {
        #[test]
        fn no_program_or_name_changes_another_field(
            text in proptest::collection::vec(
                proptest::prelude::prop_oneof![
                    proptest::prelude::any::<u8>(),
                    proptest::sample::select(b"\" =)auidekyx01\n\0".to_vec()),
                ],
                1..200,
            ),
        ) {
            let quoted = encoded(&text);
            let call = call_of(&CALL.replace("\"/usr/bin/bash\"", &quoted)).unwrap();
            proptest::prop_assert_eq!(
                (call.login, call.effective, call.pid),
                (Some(1001), 7, 16410)
            );
            proptest::prop_assert_eq!(&call.keys, &["project-webhooks".to_owned()]);
            proptest::prop_assert_eq!(call.program, String::from_utf8_lossy(&text).into_owned());
            proptest::prop_assert_eq!(name_of(&quoted), Some(text));
        }
    }

    #[test]
    fn names_are_quoted_hexadecimal_or_absent() {
        assert_eq!(
            name_of("\"a/project.xml\""),
            Some(b"a/project.xml".to_vec())
        );
        assert_eq!(name_of("612F20622201FF"), Some(b"a/ b\"\x01\xff".to_vec()));
        for absent in ["(null)", "", "\"open", "abc", "0g", "\"a\"b\""] {
            assert_eq!(name_of(absent), None, "{absent}");
        }
        let long = "61".repeat(4096);
        assert_eq!(name_of(&long), Some(vec![b'a'; 4096]));
        assert_eq!(name_of(&"61".repeat(TEXT_MAX + 1)), None);
    }

    #[test]
    fn a_malformed_record_is_ignored() {
        for text in [
            "",
            "audit(",
            "audit(1.2:3",
            "audit(1:2:3): items=1",
            "audit(99999999999999999999.1:3): x",
            "audit(9223372036854775807.1:3): x",
            "audit(1.2:3):",
            "audit(1.2:3): success=yes items=1 euid=1",
            "audit(1.2:3): success=yes items=-1 euid=1 pid=1",
            "audit(1.2:3): success=yes items=1 euid=4294967296 pid=1",
        ] {
            assert_eq!(parse(SYSCALL, text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(1305, CALL.as_bytes()), None);
    }
}
