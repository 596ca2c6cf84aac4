//! The range that Gateways without an address of their own take one from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An IPv4 range in CIDR notation. Its first and last address are not handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    base: u32,
    prefix: u8,
}

/// The text is no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 range with 2 to 2^24 addresses; use for example 127.1.0.0/16")]
pub struct ParseRangeError(String);

impl AddressRange {
    /// How many addresses can be handed out.
    pub fn size(self) -> u32 {
        (1_u32 << (32 - self.prefix)) - 2
    }

    /// The `n`th address that can be handed out, `n < self.size()`.
    pub fn nth(self, n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.base + 1 + n))
    }

    /// Which of them an address is; none when it is outside.
    pub fn position(self, address: IpAddr) -> Option<u32> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        u32::from(address)
            .checked_sub(self.base + 1)
            .filter(|n| *n < self.size())
    }
}

impl FromStr for AddressRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let refuse = || ParseRangeError(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let base: Ipv4Addr = base.parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
        if !(8..=30).contains(&prefix) {
            return Err(refuse());
        }
        let mask = u32::MAX << (32 - prefix);
        Ok(Self {
            base: u32::from(base) & mask,
            prefix,
        })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}
