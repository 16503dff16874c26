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
mod tests;
