//! Paths of one host: exact ones and prefixes, each with its candidates in order.

use std::cmp::Ordering;
use std::sync::Arc;

use api_snapshot::config::PathMatch;
use foldhash::fast::FixedState;

use crate::order::same_path;
use crate::rule::Rule;
use crate::table::RequestView;

type Map<V> = imbl::GenericHashMap<Box<str>, V, FixedState, imbl::shared_ptr::DefaultSharedPtr>;

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
pub(crate) struct PathTable<B> {
    exact: Map<Arc<[Candidate<B>]>>,
    prefix: Map<Arc<[Candidate<B>]>>,
    /// How many prefixes have so many elements: only these lengths are looked up.
    depths: imbl::OrdMap<u16, u32>,
}

impl<B> Clone for PathTable<B> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            prefix: self.prefix.clone(),
            depths: self.depths.clone(),
        }
    }
}

impl<B> Default for PathTable<B> {
    fn default() -> Self {
        Self {
            exact: Map::default(),
            prefix: Map::default(),
            depths: imbl::OrdMap::new(),
        }
    }
}

impl<B> PathTable<B> {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty()
    }

    pub(crate) fn insert(&mut self, candidate: Candidate<B>) {
        let rule = Arc::clone(&candidate.rule);
        let path = &rule.matches[usize::from(candidate.index)].path;
        let (map, path) = match path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => {
                *self.depths.entry(depth(path)).or_insert(0) += 1;
                (&mut self.prefix, path)
            }
            // A condition of a newer version never matches; the operator says so in the route's status.
            _ => return,
        };
        let before = map
            .get(path.as_str())
            .map_or(&[][..], |candidates| candidates);
        let at = before.partition_point(|other| {
            same_path(
                (&other.rule, other.index),
                (&candidate.rule, candidate.index),
            ) == Ordering::Less
        });
        let after: Arc<[Candidate<B>]> = before[..at]
            .iter()
            .cloned()
            .chain(std::iter::once(candidate))
            .chain(before[at..].iter().cloned())
            .collect();
        map.insert(path.as_str().into(), after);
    }

    pub(crate) fn remove(&mut self, rule: &Rule<B>, index: u16) {
        let (map, path) = match &rule.matches[usize::from(index)].path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => {
                let depth = depth(path);
                match self.depths.get(&depth).copied() {
                    Some(count) if count > 1 => self.depths.insert(depth, count - 1),
                    _ => self.depths.remove(&depth),
                };
                (&mut self.prefix, path)
            }
            _ => return,
        };
        let Some(before) = map.get(path.as_str()) else {
            return;
        };
        let after: Arc<[Candidate<B>]> = before
            .iter()
            .filter(|other| {
                (&other.rule.route, other.rule.index, other.index)
                    != (&rule.route, rule.index, index)
            })
            .cloned()
            .collect();
        if after.is_empty() {
            map.remove(path.as_str());
        } else {
            map.insert(path.as_str().into(), after);
        }
    }

    /// The first candidate in order of precedence that the request fulfils.
    ///
    /// Cost: one look-up for the exact path and one for each length of prefix in the table that the path reaches.
    pub(crate) fn route(&self, request: &RequestView<'_>) -> Option<&Candidate<B>> {
        if let Some(candidates) = self.exact.get(request.path)
            && let Some(found) = candidates.iter().find(|c| c.fulfilled(request))
        {
            return Some(found);
        }
        for (depth, _) in self.depths.iter().rev() {
            let Some(prefix) = prefix_of(request.path, *depth) else {
                continue;
            };
            if let Some(candidates) = self.prefix.get(prefix)
                && let Some(found) = candidates.iter().find(|c| c.fulfilled(request))
            {
                return Some(found);
            }
        }
        None
    }
}

impl<B> Candidate<B> {
    fn fulfilled(&self, request: &RequestView<'_>) -> bool {
        let m = &self.rule.matches[usize::from(self.index)];
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
