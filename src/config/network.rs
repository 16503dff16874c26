//! `network`: which addresses may be connected to.
//!
//! Constraint: the verdict is a function of one address and of the settings, of nothing else. No
//! host name takes part in it: what a name means can change between asking and connecting, so that
//! whoever connects asks here about each address it is going to use.
//!
//! Of the entries that contain an address the most specific decides. Where none does, link-local
//! addresses and the other addresses at which clouds serve credentials to their machines are
//! denied, and everything else, loopback and private networks too, is allowed: receivers are
//! where the operator says, and commonly within the company.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::problem::shown;
use super::section::{Context, Fault, Section};
use super::value::At;

/// The most entries of a list.
const ENTRIES_MAX: usize = 1024;

const ALLOWED: &str = "an address such as 10.1.2.3 or \"fd00::1\", or a range such as 10.0.0.0/8 \
                       or \"fd00::/8\"; not a host name";

/// Which addresses may be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Ranges that are allowed.
    pub allow: Vec<IpNet>,
    /// Ranges that are denied. None is in both lists.
    pub deny: Vec<IpNet>,
}

/// An address that must not be connected to, and by what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An entry of `network.deny`.
    #[error(
        "the address {address} is denied by {range} in network.deny; an exception goes into \
         network.allow"
    )]
    BySetting {
        /// The address.
        address: IpAddr,
        /// The entry.
        range: IpNet,
    },
    /// One of the ranges that are denied where no entry says otherwise.
    #[error(
        "the address {address} is denied where no setting allows it: {range} is {what}; if it is \
         meant, name it in network.allow"
    )]
    ByDefault {
        /// The address.
        address: IpAddr,
        /// The range.
        range: IpNet,
        /// What the range is.
        what: &'static str,
    },
}

const LINK_LOCAL: &str = "link-local, where clouds serve the credentials of their machines";
const METADATA: &str = "where a cloud serves the credentials of its machines";
const UNSPECIFIED: &str = "no address of a receiver";

/// What is denied where no entry says otherwise.
fn defaults() -> impl Iterator<Item = (IpNet, &'static str)> {
    let v4 = |a, b, c, d, length| {
        Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length)
            .ok()
            .map(IpNet::V4)
    };
    let v6 = |segments: [u16; 8], length| {
        Ipv6Net::new(Ipv6Addr::from(segments), length)
            .ok()
            .map(IpNet::V6)
    };
    [
        (v4(169, 254, 0, 0, 16), LINK_LOCAL),
        (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LINK_LOCAL),
        // Amazon, with the agents that hand credentials to containers.
        (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), METADATA),
        // Google.
        (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
        // Oracle, and its older cloud.
        (
            v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
            METADATA,
        ),
        (v4(192, 0, 0, 192, 32), METADATA),
        // Scaleway.
        (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), METADATA),
        // Alibaba.
        (v4(100, 100, 100, 200, 32), METADATA),
        // Azure.
        (v4(168, 63, 129, 16, 32), METADATA),
        (v4(0, 0, 0, 0, 8), UNSPECIFIED),
        (v6([0; 8], 128), UNSPECIFIED),
    ]
    .into_iter()
    .filter_map(|(range, what)| Some((range?, what)))
}

impl NetworkPolicy {
    /// Whether an address may be connected to.
    ///
    /// # Errors
    ///
    /// It may not; the error says why, and which setting allows it.
    pub fn judge(&self, address: IpAddr) -> Result<(), Denied> {
        faces(address).try_for_each(|face| self.judge_face(face))
    }

    fn judge_face(&self, address: IpAddr) -> Result<(), Denied> {
        let allow = most_specific(&self.allow, address);
        let deny = most_specific(&self.deny, address);
        match (allow, deny) {
            (Some(allow), Some(deny)) if allow.prefix_len() >= deny.prefix_len() => Ok(()),
            (_, Some(range)) => Err(Denied::BySetting { address, range }),
            (Some(_), None) => Ok(()),
            (None, None) => match defaults().find(|(range, _)| range.contains(&address)) {
                Some((range, what)) => Err(Denied::ByDefault {
                    address,
                    range,
                    what,
                }),
                None => Ok(()),
            },
        }
    }
}

fn most_specific(ranges: &[IpNet], address: IpAddr) -> Option<IpNet> {
    ranges
        .iter()
        .filter(|range| range.contains(&address))
        .max_by_key(|range| range.prefix_len())
        .copied()
}

/// The addresses that a connection to this one may arrive at, all of which have to be allowed.
fn faces(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    // IPv6 in which IPv4 is mapped is connected to by IPv4.
    let address = address.to_canonical();
    let other = match address {
        // The system connects an unspecified address to this machine.
        IpAddr::V4(v4) if v4.is_unspecified() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        IpAddr::V6(v6) => translated(v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    iter::once(address).chain(other)
}

/// The IPv4 address that a translator (NAT64, RFC 6052) connects this one to.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

/// Reads `network`.
pub(super) fn network(
    mut section: Section<'_>,
    context: &mut Context<'_>,
) -> Option<NetworkPolicy> {
    let allow_at = section.take("allow");
    let deny_at = section.take("deny");
    section.finish(context);
    let allow = ranges(allow_at.as_ref(), context);
    let deny = ranges(deny_at.as_ref(), context);
    let (allow, deny) = (allow?, deny?);
    let mut consistent = true;
    for (range, at) in &allow {
        if deny.iter().any(|(denied, _)| denied == range) {
            let fault = Fault::new(format!("{range} is in network.deny as well"))
                .allowed("in one of both lists; of two entries the more specific counts");
            context.error(&at.place, fault);
            consistent = false;
        }
    }
    if !consistent {
        return None;
    }
    let policy = NetworkPolicy {
        allow: allow.iter().map(|(range, _)| *range).collect(),
        deny: deny.iter().map(|(range, _)| *range).collect(),
    };
    for (range, at) in &allow {
        let overlaps = |other: &IpNet| other.contains(range) || range.contains(other);
        if !policy.deny.iter().any(overlaps) && !defaults().any(|(other, _)| overlaps(&other)) {
            let message = format!(
                "{range} in network.allow has no effect: what no entry denies is allowed; to allow \
                 nothing else, deny: [0.0.0.0/0, \"::/0\"]"
            );
            context.warning(&at.place, message);
        }
        if let Some((other, what)) = defaults()
            .find(|(other, what)| *what != UNSPECIFIED && range != other && range.contains(other))
        {
            let message = format!("{range} allows {other} too, which is {what}");
            context.warning(&at.place, message);
        }
    }
    one_family(&policy, deny_at.as_ref(), context);
    Some(policy)
}

/// Whoever denies everything of one family and nothing of the other probably forgot that there
/// are two.
fn one_family(policy: &NetworkPolicy, at: Option<&At<'_>>, context: &mut Context<'_>) {
    let is_all = |range: &&IpNet| range.prefix_len() == 0;
    let all: Vec<&IpNet> = policy.deny.iter().filter(is_all).collect();
    if let ([range], Some(at)) = (all.as_slice(), at) {
        let (family, other) = match range {
            IpNet::V4(_) => ("IPv6", "\"::/0\""),
            IpNet::V6(_) => ("IPv4", "0.0.0.0/0"),
        };
        let message = format!("{range} leaves every {family} address allowed; add {other}");
        context.warning(&at.place, message);
    }
}

/// The ranges of a list, each with its place.
fn ranges<'n>(at: Option<&At<'n>>, context: &mut Context<'_>) -> Option<Vec<(IpNet, At<'n>)>> {
    let Some(at) = at else {
        return Some(Vec::new());
    };
    let items = at.one_or_many();
    if items.len() > ENTRIES_MAX {
        let fault = Fault::new(format!("has {} entries", items.len()))
            .allowed(format!("up to {ENTRIES_MAX} addresses and ranges"));
        context.error(&at.place, fault);
        return None;
    }
    let found: Vec<Option<(IpNet, At<'n>)>> = items
        .into_iter()
        .map(|item| {
            let text = item.text(context)?;
            match range(text.trim()) {
                Ok(range) => Some((range, item)),
                Err(fault) => {
                    context.error(&item.place, fault.allowed(ALLOWED));
                    None
                }
            }
        })
        .collect();
    found.into_iter().collect()
}

fn range(text: &str) -> Result<IpNet, Fault> {
    let range = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| Fault::new(format!("{} is not an address range", shown(text))))?;
    if range != range.trunc() {
        return Err(
            Fault::new(format!("{range} has address bits beyond its length"))
                .suggest(Some(range.trunc().to_string())),
        );
    }
    // Addresses of that form are judged as the IPv4 addresses that they stand for.
    if let IpNet::V6(v6) = range
        && let (Some(v4), Some(length)) = (
            v6.network().to_ipv4_mapped(),
            v6.prefix_len().checked_sub(96),
        )
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        let fault = Fault::new(format!("{range} is a range of IPv4 addresses"));
        return Err(fault.suggest(Some(v4.to_string())));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
        let ranges = |texts: &[&str]| {
            let ranges = texts.iter().map(|text| range(text).ok());
            ranges.collect::<Option<Vec<IpNet>>>().expect("ranges")
        };
        NetworkPolicy {
            allow: ranges(allow),
            deny: ranges(deny),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn by_default_only_what_no_receiver_has_is_denied() {
        assert_eq!(defaults().count(), 11, "every range is one");
        let policy = NetworkPolicy::default();
        for denied in [
            "169.254.169.254",
            "169.254.170.2",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "64:ff9b::a9fe:a9fe",
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
            ("169.254.169.254", Some("169.254.0.0/16 is link-local")),
            ("fd00:ec2::254", None),
            ("::1", Some("::1/128 in network.deny")),
            ("64:ff9b::a00:1", Some("10.0.0.0/8 in network.deny")),
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
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9a-f:./% x]{0,40}") {
            if let Ok(read) = range(&text) {
                prop_assert_eq!(range(&read.to_string()).ok(), Some(read));
            }
        }
    }
}
