//! Finds the IPv4 addresses inside IPv6 addresses.
//!
//! Constraint: a tunnel or a translator on the way may forward a packet to the IPv4 address inside
//! an IPv6 address. So a connection is allowed only if the policy allows both addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The prefix of local translators (RFC 8215). Its length is 48 bits.
const LOCAL_TRANSLATORS: u128 = 0x0064_ff9b_0001 << 80;

/// Returns the IPv4 addresses inside an IPv6 address.
///
/// An address may have several forms at once, for example a 6to4 prefix and an ISATAP interface
/// identifier. The result has the IPv4 addresses of all forms. A Teredo address contains two. In
/// the address of a local translator, the length of the translator's prefix is unknown, so the
/// result has an IPv4 address for each length that fits.
pub(super) fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let segments = address.segments();
    let mut found = match segments {
        // The unspecified address and loopback.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056).
        | [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo (RFC 4380): the server, and the client with inverted bits.
        [0x2001, 0, high, low, .., a, b] => vec![v4(high, low), v4(!a, !b)],
        [0x64, 0xff9b, 1, ..] => locally_translated(address),
        _ => Vec::new(),
    };
    // ISATAP (RFC 5214), with any prefix.
    if let [.., 0 | 0x200, 0x5efe, high, low] = segments {
        found.push(v4(high, low));
    }
    found
}

/// Returns the IPv4 addresses in an address that begins with [`LOCAL_TRANSLATORS`].
///
/// The translator's own prefix begins with these 48 bits. It may have 48, 56, 64 or 96 bits (RFC
/// 6052). Unless it has 96 bits, bits 64 to 71 and all bits after the IPv4 address are zero.
fn locally_translated(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = address.to_bits() & !LOCAL_TRANSLATORS;
    // The IPv4 address skips bits 64 to 71.
    let joined = ((bits >> 64) << 56) | (bits & ((1 << 56) - 1));
    let has_gap = (bits >> 56) & 0xff == 0;
    let shorter = [40_u32, 32, 24].into_iter().filter_map(|suffix| {
        let is_padded = joined & ((1 << suffix) - 1) == 0;
        let found = u32::try_from((joined >> suffix) & u128::from(u32::MAX)).ok()?;
        (has_gap && is_padded).then_some(found)
    });
    let longest = u32::try_from(bits & u128::from(u32::MAX)).ok();
    let found = shorter.chain(longest).map(Ipv4Addr::from);
    // With a wrong prefix length, a zero of the padding looks like the first byte of an address.
    found.filter(|v4| v4.octets()[0] != 0).collect()
}
