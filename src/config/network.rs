//! The network policy: the IP addresses that callbacks may be sent to.
//!
//! Constraint: the policy checks IP addresses, never host names, because a name can resolve to
//! another address between the check and the connection. So callers check the addresses that they
//! connect to.
//!
//! The most specific entry that contains the address decides. If no entry contains it, the policy
//! denies link-local, cloud metadata and unspecified addresses. It allows all others, including
//! loopback and private networks, because receivers are often in-house. An IPv6 address that
//! contains an IPv4 address is allowed only if the IPv4 address is allowed too.

mod embedded;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::embedded::embedded;
use super::problem::shown;
use super::reader::{Context, Fault, Location, Mapping, all};
use super::value::Value;

/// The IP addresses that callbacks may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Allowed ranges.
    pub allow: Vec<IpNet>,
    /// Denied ranges. A range cannot be in both lists.
    pub deny: Vec<IpNet>,
}

/// The reason why an address is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An entry of `network.deny` contains the address.
    #[error(
        "the address {address} is denied by {range} in network.deny; to allow it, add it to \
         network.allow"
    )]
    BySetting {
        /// The denied address.
        address: IpAddr,
        /// The entry of `network.deny`.
        range: IpNet,
    },
    /// The address is in a range that is denied by default.
    #[error(
        "the address {address} is denied by default ({range}: {what}); to allow it, add it to \
         network.allow"
    )]
    ByDefault {
        /// The denied address.
        address: IpAddr,
        /// The range that contains the address.
        range: IpNet,
        /// The purpose of the range, as the message shows it.
        what: &'static str,
    },
}

impl Denied {
    /// Returns the reason without the address and its range.
    ///
    /// The address may be part of a URL that is a secret.
    pub(crate) fn without_address(&self) -> String {
        let by = match self {
            Denied::BySetting { .. } => "network.deny".to_owned(),
            Denied::ByDefault { what, .. } => format!("default ({what})"),
        };
        format!("its address is denied by {by}; to allow it, add it to network.allow")
    }
}

const LINK_LOCAL: &str = "link-local, where clouds serve machine credentials";
const METADATA: &str = "a cloud metadata service, which serves machine credentials";
const UNSPECIFIED: &str = "unspecified, never a receiver";

/// The ranges that are denied by default, each with the reason.
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
        // Amazon, including the agents that serve credentials to containers.
        (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), METADATA),
        // Google.
        (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
        // Oracle: the current address, then the older one.
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
    /// Checks whether the policy allows connecting to an address.
    ///
    /// # Errors
    ///
    /// The policy denies the address, or another address that a connection to it may reach. The
    /// error has the reason and the setting to change.
    pub fn judge(&self, address: IpAddr) -> Result<(), Denied> {
        reached(address)
            .into_iter()
            .try_for_each(|address| self.judge_one(address))
    }

    fn judge_one(&self, address: IpAddr) -> Result<(), Denied> {
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

/// Returns the addresses that a connection to this address may reach.
///
/// A connection is allowed only if the policy allows all of them.
fn reached(address: IpAddr) -> Vec<IpAddr> {
    // The operating system connects to an IPv4-mapped IPv6 address over IPv4.
    let address = address.to_canonical();
    let mut reached = vec![address];
    match address {
        // A connection to the unspecified address reaches this machine.
        IpAddr::V4(v4) if v4.is_unspecified() => reached.push(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(v6) if v6.is_unspecified() => reached.push(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(v6) => reached.extend(embedded(v6).into_iter().map(IpAddr::V4)),
        IpAddr::V4(_) => {}
    }
    reached
}

pub(super) fn network(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<NetworkPolicy> {
    let allow = mapping.read_optional(context, "allow", ranges);
    let deny = mapping.read_optional(context, "deny", ranges);
    let (allow, deny) = (allow?.unwrap_or_default(), deny?.unwrap_or_default());
    let policy = NetworkPolicy {
        allow: allow.iter().map(|(range, _)| *range).collect(),
        deny: deny.iter().map(|(range, _)| *range).collect(),
    };
    all(allow.iter().map(|(range, location)| {
        if policy.deny.contains(range) {
            let fault = Fault::new(format!("{range} is in network.deny as well"))
                .allowed("an entry in one of the two lists; the most specific entry wins");
            context.error(location, fault);
            return None;
        }
        Some(())
    }))?;
    for (range, location) in &allow {
        warn_of_allowed(*range, &policy, location, context);
    }
    if let Some(deny) = mapping.given("deny") {
        warn_of_one_family(&policy, &deny.location, context);
    }
    Some(policy)
}

/// Warns of an entry that has no effect or allows more than probably intended.
fn warn_of_allowed(
    range: IpNet,
    policy: &NetworkPolicy,
    location: &Location,
    context: &mut Context<'_>,
) {
    let overlaps = |other: &IpNet| other.contains(&range) || range.contains(other);
    if !policy.deny.iter().any(overlaps) && !defaults().any(|(other, _)| overlaps(&other)) {
        let message = format!(
            "{range} in network.allow has no effect, because nothing denies it; to deny all other \
             addresses, add deny: [0.0.0.0/0, \"::/0\"]"
        );
        context.warning(location, message);
    }
    let wider = |other: &IpNet| range != *other && range.contains(other);
    let denied = |other: &IpNet| {
        let more_specific = |denied: &&IpNet| denied.prefix_len() > range.prefix_len();
        let mut denying = policy.deny.iter().filter(more_specific);
        denying.any(|denied| denied.contains(other))
    };
    if let Some((other, what)) =
        defaults().find(|(other, what)| *what != UNSPECIFIED && wider(other) && !denied(other))
    {
        let message = format!("{range} also allows {other}, which is {what}");
        context.warning(location, message);
    }
}

/// Warns if `network.deny` has only one of `0.0.0.0/0` and `::/0`.
fn warn_of_one_family(policy: &NetworkPolicy, location: &Location, context: &mut Context<'_>) {
    let is_all = |range: &&IpNet| range.prefix_len() == 0;
    let all: Vec<&IpNet> = policy.deny.iter().filter(is_all).collect();
    if let [range] = all.as_slice() {
        let (family, other) = match range {
            IpNet::V4(_) => ("IPv6", "\"::/0\""),
            IpNet::V6(_) => ("IPv4", "0.0.0.0/0"),
        };
        let message = format!("{range} does not deny {family} addresses; add {other} to deny them");
        context.warning(location, message);
    }
}

/// Reads the ranges of a list, each with its location.
fn ranges(value: &Value<'_>, context: &mut Context<'_>) -> Option<Vec<(IpNet, Location)>> {
    let items = value.items(context)?;
    all(items.into_iter().map(|item| {
        let range = item.parsed(context, |text| range(text.trim()))?;
        Some((range, item.location))
    }))
}

fn range(text: &str) -> Result<IpNet, Fault> {
    let range = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| Fault::not_allowed(format!("{} is not an address range", shown(text))))?;
    if range != range.trunc() {
        return Err(Fault::not_allowed(format!(
            "{range} has address bits beyond its prefix length"
        ))
        .suggest(Some(range.trunc().to_string())));
    }
    // An IPv4-mapped address is checked as an IPv4 address, so this range would never match.
    if let IpNet::V6(v6) = range
        && let (Some(v4), Some(length)) = (
            v6.network().to_ipv4_mapped(),
            v6.prefix_len().checked_sub(96),
        )
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        let fault = Fault::not_allowed(format!("{range} is an IPv4 range in IPv6 notation"));
        return Err(fault.suggest(Some(v4.to_string())));
    }
    Ok(range)
}
