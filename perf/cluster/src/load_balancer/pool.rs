//! Which address is whose: plain values, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// For each address whether it is to be an IPv6 one, in the Service's order.
    pub six: Vec<bool>,
    /// The address that must be among them, as it was written.
    pub address: Option<String>,
}

/// The ranges and who holds what of them.
///
/// An address that was given back is the last to be given again: who still sends to it sees that nobody is there, and not
/// another Service.
#[derive(Debug)]
pub struct Pool {
    ranges: Vec<IpNet>,
    owners: BTreeMap<IpAddr, String>,
    /// Addresses that were given once, oldest return first.
    used: Vec<IpAddr>,
}

impl Pool {
    /// A pool in which all is free.
    #[must_use]
    pub fn new(ranges: &[IpNet]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            owners: BTreeMap::new(),
            used: Vec::new(),
        }
    }

    /// Forgets who holds what.
    pub fn clear(&mut self) {
        self.owners.clear();
    }

    /// Whether the address may be given from here.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges
            .iter()
            .any(|range| hosts(*range).any(|host| host == address))
    }

    /// What a Service holds.
    #[must_use]
    pub fn held(&self, key: &str) -> BTreeSet<IpAddr> {
        self.owners
            .iter()
            .filter(|(_, owner)| *owner == key)
            .map(|(address, _)| *address)
            .collect()
    }

    /// Takes note that a Service has these addresses; the first to say so keeps one.
    pub fn keep(&mut self, key: &str, addresses: &[IpAddr]) {
        for address in addresses {
            if self.contains(*address) {
                self.owners
                    .entry(*address)
                    .or_insert_with(|| key.to_owned());
            }
        }
    }

    /// Takes back all that a Service holds; tells whether it held any.
    pub fn release(&mut self, key: &str) -> bool {
        let held = self.held(key);
        for address in &held {
            self.owners.remove(address);
            self.used.retain(|used| used != address);
            self.used.push(*address);
        }
        !held.is_empty()
    }

    /// Gives a Service what it asks for, those that it holds first. After a refusal it holds nothing.
    ///
    /// # Errors
    /// Says why not: the address that it wants is not to be had, or a range is used up.
    pub fn give(&mut self, key: &str, wish: &Wish) -> Result<Vec<IpAddr>, String> {
        let held = self.held(key);
        let given = self.choose(key, wish, &held);
        self.release(key);
        let given = given?;
        for address in &given {
            self.owners.insert(*address, key.to_owned());
        }
        Ok(given)
    }

    fn choose(
        &self,
        key: &str,
        wish: &Wish,
        held: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, String> {
        let wanted = match &wish.address {
            Some(text) => Some(self.wanted(key, text)?),
            None => None,
        };
        if let Some(wanted) = wanted
            && !wish.six.contains(&wanted.is_ipv6())
        {
            return Err(format!("{wanted} is of a family that the service has not"));
        }
        wish.six
            .iter()
            .map(|six| {
                wanted
                    .filter(|address| address.is_ipv6() == *six)
                    .or_else(|| {
                        held.iter()
                            .find(|address| address.is_ipv6() == *six)
                            .copied()
                    })
                    .or_else(|| self.free(*six))
                    .ok_or_else(|| format!("no IPv{} address is left", if *six { 6 } else { 4 }))
            })
            .collect()
    }

    fn wanted(&self, key: &str, text: &str) -> Result<IpAddr, String> {
        let address = text
            .parse()
            .map_err(|_| format!("loadBalancerIP {text:?} is no address"))?;
        if !self.contains(address) {
            return Err(format!("{address} is outside the ranges"));
        }
        match self.owners.get(&address) {
            Some(owner) if owner != key => Err(format!("{address} is taken by {owner}")),
            _ => Ok(address),
        }
    }

    fn free(&self, six: bool) -> Option<IpAddr> {
        let fresh = self
            .ranges
            .iter()
            .flat_map(|range| hosts(*range))
            .filter(|address| address.is_ipv6() == six)
            .find(|address| !self.owners.contains_key(address) && !self.used.contains(address));
        fresh.or_else(|| {
            self.used
                .iter()
                .find(|address| address.is_ipv6() == six && !self.owners.contains_key(address))
                .copied()
        })
    }
}

/// Addresses of a range that can be given: neither the network's own nor the broadcast address.
fn hosts(range: IpNet) -> impl Iterator<Item = IpAddr> {
    range
        .hosts()
        .filter(move |address| *address != range.network() && *address != range.broadcast())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(&[
            "10.98.0.0/30".parse().unwrap(),
            "fd00::/126".parse().unwrap(),
        ])
    }

    fn wish(six: &[bool], address: Option<&str>) -> Wish {
        Wish {
            six: six.to_vec(),
            address: address.map(str::to_owned),
        }
    }

    fn give(
        pool: &mut Pool,
        key: &str,
        six: &[bool],
        address: Option<&str>,
    ) -> Result<String, String> {
        let given = pool.give(key, &wish(six, address))?;
        let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
        Ok(texts.join(" "))
    }

    #[test]
    fn each_family_in_its_order() {
        let mut pool = pool();
        assert_eq!(
            give(&mut pool, "a", &[false, true], None).unwrap(),
            "10.98.0.1 fd00::1"
        );
        assert_eq!(
            give(&mut pool, "b", &[true, false], None).unwrap(),
            "fd00::2 10.98.0.2"
        );
    }

    #[test]
    fn who_asks_again_keeps_its_own() {
        let mut pool = pool();
        pool.keep("a", &["10.98.0.2".parse().unwrap()]);
        assert_eq!(give(&mut pool, "a", &[false], None).unwrap(), "10.98.0.2");
        assert_eq!(give(&mut pool, "a", &[false], None).unwrap(), "10.98.0.2");
    }

    #[test]
    fn a_wanted_address_is_given_to_one_alone() {
        let mut pool = pool();
        assert_eq!(give(&mut pool, "a", &[false], None).unwrap(), "10.98.0.1");
        let refusal = give(&mut pool, "b", &[false], Some("10.98.0.1")).unwrap_err();
        assert_eq!(refusal, "10.98.0.1 is taken by a");
        assert_eq!(
            give(&mut pool, "b", &[false], Some("10.98.0.2")).unwrap(),
            "10.98.0.2"
        );
        // It moves when it says so, and its old address is free again.
        pool.release("a");
        assert_eq!(
            give(&mut pool, "b", &[false], Some("10.98.0.1")).unwrap(),
            "10.98.0.1"
        );
        assert_eq!(pool.held("b").len(), 1);
    }

    #[test]
    fn what_cannot_be_wanted_is_said() {
        let mut pool = pool();
        for (address, said) in [
            ("10.99.0.1", "outside"),
            ("10.98.0.0", "outside"),
            ("10.98.0.3", "outside"),
            ("x", "no address"),
            ("fd00::1", "family"),
        ] {
            let refusal = give(&mut pool, "a", &[false], Some(address)).unwrap_err();
            assert!(refusal.contains(said), "{address}: {refusal}");
        }
        assert!(pool.held("a").is_empty());
    }

    #[test]
    fn a_used_up_range_goes_on_with_what_comes_back_oldest_first() {
        let mut pool = pool();
        for key in ["a", "b"] {
            give(&mut pool, key, &[false], None).unwrap();
        }
        assert_eq!(
            give(&mut pool, "c", &[false], None).unwrap_err(),
            "no IPv4 address is left"
        );
        assert!(pool.release("b"));
        assert!(pool.release("a"));
        assert!(!pool.release("a"));
        assert_eq!(give(&mut pool, "c", &[false], None).unwrap(), "10.98.0.2");
    }

    #[test]
    fn an_address_comes_back_late() {
        let mut pool = Pool::new(&["10.98.0.0/29".parse().unwrap()]);
        assert_eq!(give(&mut pool, "a", &[false], None).unwrap(), "10.98.0.1");
        pool.release("a");
        assert_eq!(give(&mut pool, "b", &[false], None).unwrap(), "10.98.0.2");
    }
}
