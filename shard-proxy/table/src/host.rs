//! Hosts of one listener, each with its paths.

use std::sync::Arc;

use api_snapshot::config::AttachedHost;
use foldhash::fast::FixedState;

use crate::order::host_rank;
use crate::path::{Candidate, PathTable};
use crate::rule::Rule;
use crate::table::RequestView;

type Map<V> = imbl::GenericHashMap<Box<str>, V, FixedState, imbl::shared_ptr::DefaultSharedPtr>;

/// Paths of one host, apart by the host name that the route itself gave: more specific ones first. Nearly always one.
#[derive(Debug)]
pub(crate) struct HostTable<B>(pub(crate) Vec<(Option<Box<str>>, PathTable<B>)>);

impl<B> Clone for HostTable<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Hosts of one listener.
#[derive(Debug)]
pub(crate) struct ListenerTable<B> {
    pub(crate) exact: Map<Arc<HostTable<B>>>,
    /// By what follows the `*`: `.example.com`.
    pub(crate) wildcard: Map<Arc<HostTable<B>>>,
    pub(crate) any: Option<Arc<HostTable<B>>>,
}

impl<B> Clone for ListenerTable<B> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            wildcard: self.wildcard.clone(),
            any: self.any.clone(),
        }
    }
}

impl<B> Default for ListenerTable<B> {
    fn default() -> Self {
        Self {
            exact: Map::default(),
            wildcard: Map::default(),
            any: None,
        }
    }
}

impl<B> ListenerTable<B> {
    pub(crate) fn insert(&mut self, host: &AttachedHost, rule: &Arc<Rule<B>>) {
        self.change(host, |paths| {
            for index in 0..rule.matches.len() as u16 {
                paths.insert(Candidate {
                    rule: Arc::clone(rule),
                    index,
                });
            }
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_none() && self.exact.is_empty() && self.wildcard.is_empty()
    }

    pub(crate) fn remove(&mut self, host: &AttachedHost, rule: &Arc<Rule<B>>) {
        self.change(host, |paths| {
            for index in 0..rule.matches.len() as u16 {
                paths.remove(&Candidate {
                    rule: Arc::clone(rule),
                    index,
                });
            }
        });
    }

    fn change(&mut self, host: &AttachedHost, change: impl FnOnce(&mut PathTable<B>)) {
        let (map, key) = match host.host.as_deref() {
            None => {
                let table = self.any.take();
                self.any = changed(table, host, change);
                return;
            }
            Some(name) => match name.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, name),
            },
        };
        match changed(map.remove(key), host, change) {
            Some(table) => map.insert(key.into(), table),
            None => None,
        };
    }

    /// The first match in order of precedence.
    ///
    /// Cost: one look-up for the host and one for each of its labels.
    pub(crate) fn route(&self, request: &RequestView<'_>) -> Option<&Candidate<B>> {
        let hosts = self
            .exact
            .get(request.host)
            .into_iter()
            .chain(suffixes(request.host).filter_map(|suffix| self.wildcard.get(suffix)))
            .chain(&self.any);
        hosts
            .flat_map(|host| &host.0)
            .find_map(|(_, paths)| paths.route(request))
    }
}

/// `.b.c` and `.c` for `a.b.c`: what a wildcard may stand before, longest first.
pub(crate) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.bytes()
        .enumerate()
        .skip(1) // a wildcard stands for at least one character
        .filter(|(_, byte)| *byte == b'.')
        .map(|(at, _)| &host[at..])
}

fn changed<B>(
    table: Option<Arc<HostTable<B>>>,
    host: &AttachedHost,
    change: impl FnOnce(&mut PathTable<B>),
) -> Option<Arc<HostTable<B>>> {
    let mut table = table.unwrap_or_else(|| Arc::new(HostTable(Vec::new())));
    let layers = &mut Arc::make_mut(&mut table).0;
    let own = host.route_host.as_deref();
    let at = match layers.iter().position(|(name, _)| name.as_deref() == own) {
        Some(at) => at,
        None => {
            let at =
                layers.partition_point(|(name, _)| host_rank(name.as_deref()) > host_rank(own));
            layers.reserve_exact(1);
            layers.insert(at, (own.map(Into::into), PathTable::default()));
            at
        }
    };
    change(&mut layers[at].1);
    if layers[at].1.is_empty() {
        layers.remove(at);
    }
    (!layers.is_empty()).then_some(table)
}
