//! Paths of one host: exact ones and prefixes, each with its candidates in order.
//!
//! Nearly every host has a handful of matches: those are one sorted list, and a persistent map would cost a hundred
//! times their bytes. A host with many goes by maps, so that one change among thousands copies a few nodes.

use std::cmp::Ordering;
use std::sync::Arc;

use api_snapshot::config::PathMatch;
use foldhash::fast::FixedState;

use crate::order::{path_rank, same_path};
use crate::rule::{CompiledMatch, Rule};
use crate::table::RequestView;

type Map<V> = imbl::GenericHashMap<Box<str>, V, FixedState, imbl::shared_ptr::DefaultSharedPtr>;

/// Up to so many matches are one list.
const FEW_MAX: usize = 16;
/// A host goes back to a list at this number, half of [`FEW_MAX`] so that it does not swing at the limit.
const MANY_MIN: usize = 8;

/// A match of a rule that is tried for a path.
#[derive(Debug)]
pub(crate) struct Candidate<B> {
    pub(crate) rule: Arc<Rule<B>>,
    pub(crate) index: u16,
}

impl<B> Clone for Candidate<B> {
    fn clone(&self) -> Self {
        Self {
            rule: Arc::clone(&self.rule),
            index: self.index,
        }
    }
}

/// Paths of one host.
#[derive(Debug)]
pub(crate) enum PathTable<B> {
    /// In order of precedence over all paths.
    Few(Box<[Candidate<B>]>),
    Many(Box<Many<B>>),
}

/// Paths of a host with more than [`FEW_MAX`] matches.
#[derive(Debug)]
pub(crate) struct Many<B> {
    exact: Map<imbl::Vector<Candidate<B>>>,
    prefix: Map<imbl::Vector<Candidate<B>>>,
    /// How many matches have a prefix of so many elements: only these lengths are looked up.
    depths: imbl::OrdMap<u16, u32>,
    len: usize,
}

impl<B> Clone for Many<B> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            prefix: self.prefix.clone(),
            depths: self.depths.clone(),
            len: self.len,
        }
    }
}

impl<B> Clone for PathTable<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Few(all) => Self::Few(all.clone()),
            Self::Many(many) => Self::Many(many.clone()),
        }
    }
}

impl<B> Default for PathTable<B> {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl<B> PathTable<B> {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(all) => all.is_empty(),
            Self::Many(many) => many.len == 0,
        }
    }

    /// Adds a match; one that is there already stays as it is.
    ///
    /// Cost: O([`FEW_MAX`]) or, with more matches, O(log n) also when all of them have the same path.
    pub(crate) fn insert(&mut self, candidate: Candidate<B>) {
        match self {
            Self::Few(all) => {
                let Err(at) = all.binary_search_by(|other| any_path(other, &candidate)) else {
                    return;
                };
                if all.len() < FEW_MAX {
                    let mut more = Vec::with_capacity(all.len() + 1);
                    more.extend_from_slice(&all[..at]);
                    more.push(candidate);
                    more.extend_from_slice(&all[at..]);
                    *all = more.into();
                } else {
                    let mut many = Many::empty();
                    for other in all.iter().cloned() {
                        many.insert(other);
                    }
                    many.insert(candidate);
                    *self = Self::Many(Box::new(many));
                }
            }
            Self::Many(many) => many.insert(candidate),
        }
    }

    /// Takes a match out; does nothing when it is not there.
    pub(crate) fn remove(&mut self, candidate: &Candidate<B>) {
        match self {
            Self::Few(all) => {
                if let Ok(at) = all.binary_search_by(|other| any_path(other, candidate)) {
                    let mut fewer = Vec::with_capacity(all.len() - 1);
                    fewer.extend_from_slice(&all[..at]);
                    fewer.extend_from_slice(&all[at + 1..]);
                    *all = fewer.into();
                }
            }
            Self::Many(many) => {
                many.remove(candidate);
                if many.len <= MANY_MIN {
                    let lists = many.exact.values().chain(many.prefix.values());
                    let mut all: Vec<_> = lists.flatten().cloned().collect();
                    all.sort_by(any_path);
                    *self = Self::Few(all.into());
                }
            }
        }
    }

    /// The first candidate in order of precedence that the request fulfils.
    ///
    /// Cost: [`FEW_MAX`] comparisons; or one look-up for the exact path and one for each length of prefix in the
    /// table that the path reaches. Candidates of one path are tried one after the other.
    pub(crate) fn route(&self, request: &RequestView<'_>) -> Option<&Candidate<B>> {
        match self {
            Self::Few(all) => all
                .iter()
                .find(|c| path_matches(&c.condition().path, request.path) && c.fulfilled(request)),
            Self::Many(many) => many.route(request),
        }
    }
}

impl<B> Many<B> {
    fn empty() -> Self {
        Self {
            exact: Map::default(),
            prefix: Map::default(),
            depths: imbl::OrdMap::new(),
            len: 0,
        }
    }

    fn insert(&mut self, candidate: Candidate<B>) {
        let rule = Arc::clone(&candidate.rule);
        let (map, path) = match &rule.matches[usize::from(candidate.index)].path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => (&mut self.prefix, path),
            // A condition of a newer version never matches; the operator says so in the route's status.
            _ => return,
        };
        if !map.contains_key(path.as_str()) {
            map.insert(path.as_str().into(), imbl::Vector::new());
        }
        let Some(list) = map.get_mut(path.as_str()) else {
            return;
        };
        let Err(at) = list.binary_search_by(|other| one_path(other, &candidate)) else {
            return;
        };
        list.insert(at, candidate.clone());
        self.len += 1;
        if let PathMatch::Prefix(path) = &candidate.condition().path {
            *self.depths.entry(depth(path)).or_insert(0) += 1;
        }
    }

    fn remove(&mut self, candidate: &Candidate<B>) {
        let (map, path) = match &candidate.condition().path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => (&mut self.prefix, path),
            _ => return,
        };
        let Some(list) = map.get_mut(path.as_str()) else {
            return;
        };
        let Ok(at) = list.binary_search_by(|other| one_path(other, candidate)) else {
            return;
        };
        list.remove(at);
        if list.is_empty() {
            map.remove(path.as_str());
        }
        self.len -= 1;
        if let PathMatch::Prefix(path) = &candidate.condition().path {
            let depth = depth(path);
            match self.depths.get(&depth).copied() {
                Some(count) if count > 1 => self.depths.insert(depth, count - 1),
                _ => self.depths.remove(&depth),
            };
        }
    }

    fn route(&self, request: &RequestView<'_>) -> Option<&Candidate<B>> {
        if let Some(list) = self.exact.get(request.path)
            && let Some(found) = list.iter().find(|c| c.fulfilled(request))
        {
            return Some(found);
        }
        for (depth, _) in self.depths.iter().rev() {
            let Some(prefix) = prefix_of(request.path, *depth) else {
                continue;
            };
            if let Some(list) = self.prefix.get(prefix)
                && let Some(found) = list.iter().find(|c| c.fulfilled(request))
            {
                return Some(found);
            }
        }
        None
    }
}

impl<B> Candidate<B> {
    pub(crate) fn condition(&self) -> &CompiledMatch {
        &self.rule.matches[usize::from(self.index)]
    }

    /// Whether all but the path holds.
    fn fulfilled(&self, request: &RequestView<'_>) -> bool {
        let m = self.condition();
        m.method
            .as_ref()
            .is_none_or(|method| method == request.method)
            && m.headers
                .iter()
                .all(|(name, value)| request.header_is(name, value))
            && m.query
                .iter()
                .all(|pair| request.query_is(&pair.name, &pair.value))
    }
}

/// Order of candidates with the same path.
fn one_path<B>(a: &Candidate<B>, b: &Candidate<B>) -> Ordering {
    same_path((&a.rule, a.index), (&b.rule, b.index))
}

/// Order of candidates whatever their paths: exact, then longer prefixes; paths of one length exclude each other, so
/// that their text may decide.
fn any_path<B>(a: &Candidate<B>, b: &Candidate<B>) -> Ordering {
    let (one, other) = (a.condition(), b.condition());
    path_rank(other)
        .cmp(&path_rank(one))
        .then_with(|| one.path.cmp(&other.path))
        .then_with(|| one_path(a, b))
}

/// Whether a path condition holds (gateway-api v1 `PathMatchType`): prefixes match by element.
pub(crate) fn path_matches(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) if prefix == "/" => true,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        _ => false,
    }
}

/// Number of elements of a prefix; 0 for `/`.
fn depth(prefix: &str) -> u16 {
    let elements = prefix.bytes().filter(|byte| *byte == b'/').count();
    if prefix == "/" {
        0
    } else {
        u16::try_from(elements).unwrap_or(u16::MAX)
    }
}

/// The first `depth` elements of a path; none when it has fewer.
fn prefix_of(path: &str, depth: u16) -> Option<&str> {
    if depth == 0 {
        return Some("/");
    }
    let mut slashes = path
        .bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'/')
        .map(|(at, _)| at);
    let last = slashes.nth(usize::from(depth) - 1)?;
    // `/a/` has one element: its second slash ends it.
    let end = slashes.next().unwrap_or(path.len());
    (end > last + 1 || end < path.len()).then(|| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_cut_at_elements() {
        for (path, depth, expected) in [
            ("/a/b/c", 0, Some("/")),
            ("/a/b/c", 1, Some("/a")),
            ("/a/b/c", 2, Some("/a/b")),
            ("/a/b/c", 3, Some("/a/b/c")),
            ("/a/b/c", 4, None),
            ("/a/", 1, Some("/a")),
            ("/a/", 2, None),
            ("/", 1, None),
            ("/", 0, Some("/")),
            ("/a//b", 2, Some("/a/")),
        ] {
            assert_eq!(prefix_of(path, depth), expected, "{path} {depth}");
        }
        assert_eq!((depth("/"), depth("/a"), depth("/a/b")), (0, 1, 2));
    }
}
