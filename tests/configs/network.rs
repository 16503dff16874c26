//! The network policy: every form of an address, and every order of entries.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use project_webhooks::config::{Denied, NetworkPolicy, load_str};
use proptest::prelude::*;

fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
    let text = format!(
        "repository: {{ path: /nowhere/r }}\nnetwork: {{ allow: {allow:?}, deny: {deny:?} }}\n"
    );
    load_str(
        text.as_bytes(),
        Path::new("/nowhere/c.yaml"),
        &BTreeMap::new(),
    )
    .unwrap_or_else(|problems| panic!("{problems}"))
    .config
    .network
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn by_default_only_what_no_receiver_has_is_denied() {
    let policy = NetworkPolicy::default();
    for denied in [
        "169.254.169.254",
        "169.254.170.2",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        // Local NAT64 (RFC 8215), with prefixes of 48, 56, 64 and 96 bits.
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:7:a9:fea9:fe00:0",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:fffe::169.254.169.254",
        // 6to4, with and without a subnet and an interface.
        "2002:a9fe:a9fe::",
        "2002:a9fe:a9fe:1::1",
        // IPv4-compatible and IPv4-translated.
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        // ISATAP, and Teredo with the inverted address of its client.
        "2001:db8::5efe:169.254.169.254",
        "2001:db8::200:5efe:169.254.169.254",
        "2001:0:5db8:d822:0:0:5601:5601",
        // Two forms at once: Teredo and ISATAP, then 6to4 and ISATAP.
        "2001:0:4136:e378:0:5efe:5601:5601",
        "2001:0:a9fe:a9fe:0:5efe:5db8:d822",
        "2001:0:4136:e378:0:5efe:169.254.169.254",
        "2002:5db8:d822::5efe:169.254.169.254",
        "2002:a9fe:a9fe::5efe:93.184.216.34",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::ffff:0.0.0.0",
    ] {
        let verdict = policy.judge(address(denied));
        assert!(matches!(verdict, Err(Denied::ByDefault { .. })), "{denied}");
    }
    for allowed in [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "100.100.100.201",
        "fd00::1",
        "fd20:ce::255",
        "93.184.216.34",
        "::ffff:93.184.216.34",
        "2606:2800::1",
        "64:ff9b::5db8:d822",
        "64:ff9b:1:5db8:d8:2200::",
        "64:ff9b:1::5db8:d822",
        "64:ff9b:1::10.0.0.0",
        "2002:5db8:d822::1",
        "::93.184.216.34",
        "::ffff:0:93.184.216.34",
        "2001:db8::5efe:93.184.216.34",
        "2001:0:5db8:d822::a247:27dd",
        "2001:0:4136:e378:0:5efe:93.184.216.34",
        "2002:5db8:d822::5efe:93.184.216.34",
    ] {
        assert_eq!(policy.judge(address(allowed)), Ok(()), "{allowed}");
    }
}

#[test]
fn the_most_specific_entry_decides_and_the_defaults_only_without_one() {
    let policy = policy(
        &[
            "10.1.0.0/16",
            "10.1.2.3",
            "169.254.10.0/24",
            "fd00:ec2::254",
        ],
        &["10.0.0.0/8", "10.1.2.0/24", "169.254.10.9", "::1"],
    );
    for (text, expected) in [
        ("10.0.0.1", Some("10.0.0.0/8 in network.deny")),
        ("10.1.0.1", None),
        ("::ffff:10.1.0.1", None),
        ("10.1.2.1", Some("10.1.2.0/24 in network.deny")),
        ("10.1.2.3", None),
        ("169.254.10.1", None),
        ("169.254.10.9", Some("169.254.10.9/32 in network.deny")),
        ("169.254.169.254", Some("169.254.0.0/16: link-local")),
        ("fd00:ec2::254", None),
        ("::1", Some("::1/128 in network.deny")),
        ("64:ff9b::a00:1", Some("10.0.0.0/8 in network.deny")),
        ("2002:a00:1::1", Some("10.0.0.0/8 in network.deny")),
        ("2002:a01:1::1", None),
        ("::10.0.0.1", Some("10.0.0.0/8 in network.deny")),
        ("64:ff9b:1::a00:1", Some("10.0.0.0/8 in network.deny")),
    ] {
        let verdict = policy.judge(address(text));
        match expected {
            None => assert_eq!(verdict, Ok(()), "{text}"),
            Some(expected) => {
                let said = verdict.expect_err(text).to_string();
                assert!(said.contains(expected), "{text}: {said}");
                assert!(said.contains("network.allow"), "{said}");
            }
        }
    }
}

#[test]
fn an_unspecified_address_is_no_way_round_a_denied_loopback() {
    let policy = policy(&["0.0.0.0/0", "::/0"], &["127.0.0.0/8", "::1"]);
    for text in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        let said = policy.judge(address(text)).expect_err(text).to_string();
        assert!(said.contains("in network.deny"), "{said}");
    }
}

proptest! {
    #[test]
    fn the_form_of_an_address_does_not_matter(bits: u32) {
        let policy = policy(&["169.254.1.0/24"], &["128.0.0.0/2", "200.0.0.0/7"]);
        let v4 = Ipv4Addr::from(bits);
        let verdict = policy.judge(IpAddr::V4(v4)).is_ok();
        let mapped = IpAddr::V6(v4.to_ipv6_mapped());
        prop_assert_eq!(policy.judge(mapped).is_ok(), verdict);
        let [high, low] = [(bits >> 16) as u16, bits as u16];
        let translated = Ipv6Addr::from([0x64, 0xff9b, 0, 0, 0, 0, high, low]);
        prop_assert_eq!(policy.judge(IpAddr::V6(translated)).is_ok(), verdict);
        let sixtofour = Ipv6Addr::from([0x2002, high, low, 0, 0, 0, 0, 1]);
        prop_assert_eq!(policy.judge(IpAddr::V6(sixtofour)).is_ok(), verdict);
        if bits > 1 {
            let compatible = Ipv6Addr::from([0, 0, 0, 0, 0, 0, high, low]);
            prop_assert_eq!(policy.judge(IpAddr::V6(compatible)).is_ok(), verdict);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[0-9a-f:./% x]{0,40}") {
        let yaml = format!("repository: {{ path: /nowhere/r }}\nnetwork: {{ allow: [{text:?}] }}\n");
        let file = Path::new("/nowhere/c.yaml");
        if let Ok(loaded) = load_str(yaml.as_bytes(), file, &BTreeMap::new()) {
            let read = loaded.config.network.allow[0];
            prop_assert_eq!(read.to_string().parse::<IpNet>().ok(), Some(read));
        }
    }
}
