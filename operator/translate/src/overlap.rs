//! Listeners of one Gateway whose TLS configuration overlaps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::CertificateKey;
use api::condition::reasons;
use api_snapshot::config::ListenerProtocol;
use api_snapshot::facts::Certificate;
use operator_objects::spec::Listener;

use crate::hostname::intersect_optional;
use crate::listener::Examined;
use crate::problem::Problem;

/// DNS names of certificates that are compared for one port of a Gateway; beyond it none are, and host names alone are told.
/// It bounds what one tenant can make all others wait for, to some 50 ms.
const NAMES_MAX: usize = 50_000;

/// Listeners of one port by their places in it. The API allows a Gateway 64 of them.
type Set = u64;

fn only(place: usize) -> Set {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    1_u64.checked_shl(place).unwrap_or_default()
}

/// By the position of a listener, why its TLS configuration may be used for another's requests when a client reuses a
/// connection.
///
/// Both reasons are looked for; overlapping certificates are the one that is told when both hold. Cost: O(labels of the
/// certificates' names), and O(listeners²) for their host names.
///
/// Source: gateway-api v1 `ListenerConditionOverlappingTLSConfig`.
pub(crate) fn overlaps(
    listeners: &[(&Listener, Examined)],
    held: &BTreeMap<CertificateKey, Arc<Certificate>>,
) -> BTreeMap<usize, Problem> {
    let mut ports: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, (listener, examined)) in listeners.iter().enumerate() {
        if examined.protocol == Some(ListenerProtocol::Https) {
            ports.entry(listener.port).or_default().push(at);
        }
    }
    let mut found = BTreeMap::new();
    for group in ports.into_values().filter(|group| group.len() > 1) {
        let group_of: Vec<&(&Listener, Examined)> =
            group.iter().map(|at| &listeners[*at]).collect();
        let by_certificate = by_certificate(&group_of, held);
        let by_hostname = by_hostname(&group_of);
        for (place, at) in group.iter().enumerate() {
            let (reason, what, with) = match (by_certificate[place], by_hostname[place]) {
                (0, 0) => continue,
                (0, with) => (reasons::OVERLAPPING_HOSTNAMES, "hostnames", with),
                (with, _) => (reasons::OVERLAPPING_CERTIFICATES, "certificates", with),
            };
            let others = group_of.iter().enumerate();
            let names: Vec<&str> = others
                .filter(|(other, _)| with & only(*other) != 0)
                .map(|(_, (listener, _))| listener.name.as_str())
                .collect();
            let message = format!(
                "{what} overlap with those of listener {}; requests that reuse a connection for another listener's host get 421",
                names.join(", ")
            );
            found.insert(*at, Problem::new(reason, message));
        }
    }
    found
}

/// Of each listener, the others whose host name overlaps with its own.
fn by_hostname(group: &[&(&Listener, Examined)]) -> Vec<Set> {
    let host = |place: usize| group[place].0.hostname.as_deref();
    let overlap = |a: usize, b: usize| a != b && intersect_optional(host(a), host(b)).is_some();
    let all = 0..group.len();
    all.clone()
        .map(|place| {
            let others = all.clone().filter(|other| overlap(place, *other));
            others.fold(0, |set, other| set | only(other))
        })
        .collect()
}

/// Of each listener, the others with a certificate that has a host in common with one of its own.
fn by_certificate(
    group: &[&(&Listener, Examined)],
    held: &BTreeMap<CertificateKey, Arc<Certificate>>,
) -> Vec<Set> {
    let mut users: BTreeMap<&CertificateKey, Set> = BTreeMap::new();
    for (place, (_, examined)) in group.iter().enumerate() {
        for key in &examined.certificates {
            *users.entry(key).or_default() |= only(place);
        }
    }
    let certificates = users
        .into_iter()
        .filter_map(|(key, users)| Some((&held.get(key)?.dns_names, users)));
    let mut names = Names::default();
    for (dns_names, users) in certificates {
        for name in dns_names {
            names.add(name, users);
        }
        if names.len() > NAMES_MAX {
            return vec![0; group.len()];
        }
    }
    names.shared(group.len())
}

/// Who has which name: whole ones, and by what follows the star of `*.example.com`.
#[derive(Default)]
struct Names<'a> {
    exact: HashMap<&'a str, Set>,
    wild: HashMap<&'a str, Set>,
}

impl<'a> Names<'a> {
    fn add(&mut self, name: &'a str, users: Set) {
        let (map, name) = match name.strip_prefix('*') {
            Some(suffix) => (&mut self.wild, suffix),
            None => (&mut self.exact, name),
        };
        *map.entry(name).or_default() |= users;
    }

    fn len(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    /// Of each of so many, the others that have a host in common with it.
    fn shared(&self, count: usize) -> Vec<Set> {
        let mut found = vec![0; count];
        for common in self.common() {
            for (place, with) in found.iter_mut().enumerate() {
                if common & only(place) != 0 {
                    *with |= common & !only(place);
                }
            }
        }
        found
    }

    /// For each name those who have it or a wildcard that covers it: wildcards that cover one name cover each other, so all
    /// of them overlap.
    fn common(&self) -> impl Iterator<Item = Set> {
        self.exact.iter().chain(&self.wild).map(|(name, users)| {
            let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0);
            let suffixes = suffixes.map(|(at, _)| &name[at..]).chain([""]);
            suffixes
                .filter_map(|suffix| self.wild.get(suffix))
                .fold(*users, |set, wider| set | wider)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostname::intersect;

    /// Of each listener those that share a host with it, found by comparing all pairs.
    fn naive(lists: &[Vec<&str>]) -> Vec<Set> {
        let overlap = |a: &Vec<&str>, b: &Vec<&str>| {
            a.iter()
                .any(|one| b.iter().any(|other| intersect(one, other).is_some()))
        };
        let of = |place: usize| {
            let others = lists
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place);
            others
                .filter(|(_, list)| overlap(&lists[place], list))
                .fold(0, |set, (other, _)| set | only(other))
        };
        (0..lists.len()).map(of).collect()
    }

    fn quick(lists: &[Vec<&str>]) -> Vec<Set> {
        let mut names = Names::default();
        for (place, list) in lists.iter().enumerate() {
            for name in list {
                names.add(name, only(place));
            }
        }
        names.shared(lists.len())
    }

    #[test]
    fn names_that_overlap_are_those_that_intersect() {
        let pool = [
            "example.com",
            "a.example.com",
            "b.a.example.com",
            "*.example.com",
            "*.a.example.com",
            "*.com",
            "*",
            "xexample.com",
            "other.test",
            "*.test",
        ];
        // Every choice of two names for each of three listeners, one step of a fixed walk at a time.
        let mut state = 1_usize;
        for _ in 0..2000 {
            let mut pick = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695);
                pool[(state >> 33) % pool.len()]
            };
            let lists = [vec![pick(), pick()], vec![pick(), pick()], vec![pick()]];
            assert_eq!(quick(&lists), naive(&lists), "{lists:?}");
        }
    }
}
