//! From entries to the next table.

use std::sync::Arc;

use api::{BackendKey, Revision, RouteKey};
use api_snapshot::config::{GatewayEntry, GatewayEntryKey, ListenerSpec};
use api_snapshot::{Op, SetHash, decode};

use crate::rule::{NamedRule, Rule, RuleName};
use crate::table::{Inner, Listener, SubTable};

/// A delta does not lead to a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Deltas are missing between this table and the delta; ask for the Gateway whole.
    #[error("delta builds on revision {base}, the table is at {have}")]
    Gap {
        /// What the delta names.
        base: Revision,
        /// What the table has.
        have: Revision,
    },
    /// The entries after the delta are not those that the operator has; ask for the Gateway whole.
    #[error("entries have hash {have} where {expected} was named")]
    HashMismatch {
        /// What the delta names.
        expected: SetHash,
        /// What it leads to.
        have: SetHash,
    },
    /// An entry cannot be read; a newer version wrote it, or it is damaged.
    #[error("entry is not readable: {0}")]
    Unreadable(String),
}

impl<B> SubTable<B> {
    /// Applies a delta and returns the table that serves after it.
    ///
    /// `base` must be this table's revision unless `replace` is set, which says that `ops` are all entries there
    /// are. `backends` gives what a backend key stands for; it is asked for each backend of each rule that is new.
    ///
    /// Cost: O(entries in `ops`); everything else is shared with `self`.
    ///
    /// # Errors
    /// [`ApplyError`]; `self` serves on.
    pub fn apply(
        &self,
        base: Revision,
        revision: Revision,
        replace: bool,
        ops: &[Op],
        hash: SetHash,
        backends: &mut dyn FnMut(&BackendKey) -> B,
    ) -> Result<Self, ApplyError> {
        let mut next = if replace {
            Self::empty(self.0.gateway.clone()).0.as_ref().clone()
        } else {
            if base != self.0.revision {
                return Err(ApplyError::Gap {
                    base,
                    have: self.0.revision,
                });
            }
            self.0.as_ref().clone()
        };
        for op in ops {
            next.apply(op, backends)?;
        }
        if next.hash != hash {
            return Err(ApplyError::HashMismatch {
                expected: hash,
                have: next.hash,
            });
        }
        next.revision = revision;
        Ok(Self(Arc::new(next)))
    }
}

impl<B> Inner<B> {
    fn apply(
        &mut self,
        op: &Op,
        backends: &mut dyn FnMut(&BackendKey) -> B,
    ) -> Result<(), ApplyError> {
        let unreadable = |error: &dyn std::error::Error| ApplyError::Unreadable(error.to_string());
        let key: GatewayEntryKey = decode("entry key", &op.key).map_err(|e| unreadable(&e))?;
        let new = match &op.value {
            Some(value) => {
                let entry: GatewayEntry = decode("entry", value).map_err(|e| unreadable(&e))?;
                Some((SetHash::of(&op.key, value), entry))
            }
            None => None,
        };
        match (key, new) {
            (GatewayEntryKey::Gateway, Some((hash, GatewayEntry::Gateway(spec)))) => {
                self.replace_spec(Some((hash, spec)));
            }
            (GatewayEntryKey::Gateway, None) => self.replace_spec(None),
            (GatewayEntryKey::Listener(name), Some((hash, GatewayEntry::Listener(spec)))) => {
                self.replace_listener(&name, Some((hash, spec)));
            }
            (GatewayEntryKey::Listener(name), None) => self.replace_listener(&name, None),
            (GatewayEntryKey::Rule(route, index), Some((hash, GatewayEntry::Rule(spec)))) => {
                let rule =
                    Rule::compile(route.clone(), index, hash, spec, backends).map_err(|error| {
                        ApplyError::Unreadable(format!("{route} rules[{index}]: {error}"))
                    })?;
                self.replace_rule(&route, index, Some(Arc::new(rule)));
            }
            (GatewayEntryKey::Rule(route, index), None) => self.replace_rule(&route, index, None),
            (key, Some(_)) => {
                return Err(ApplyError::Unreadable(format!(
                    "{key:?} has a value of another kind"
                )));
            }
            (key, None) => {
                return Err(ApplyError::Unreadable(format!(
                    "{key:?} is of an unknown kind"
                )));
            }
        }
        Ok(())
    }

    fn rehash(&mut self, old: Option<SetHash>, new: Option<SetHash>) {
        self.hash = self
            .hash
            .minus(old.unwrap_or_default())
            .plus(new.unwrap_or_default());
    }

    fn replace_spec(&mut self, new: Option<(SetHash, api_snapshot::config::GatewaySpec)>) {
        let old = std::mem::replace(&mut self.spec, new).map(|(hash, _)| hash);
        let new = self.spec.as_ref().map(|(hash, _)| *hash);
        self.rehash(old, new);
    }

    fn replace_listener(&mut self, name: &str, new: Option<(SetHash, ListenerSpec)>) {
        let old = self.listeners.remove(name);
        if let Some(old) = &old {
            self.unplace(old);
        }
        self.rehash(old.map(|old| old.hash), new.as_ref().map(|(hash, _)| *hash));
        if let Some((hash, spec)) = new {
            let listener = Arc::new(Listener {
                name: name.to_owned(),
                spec,
                hash,
            });
            self.place(&listener);
            self.listeners.insert(name.to_owned(), listener);
        }
    }

    fn place(&mut self, listener: &Arc<Listener>) {
        let port = self.ports.entry(listener.spec.port).or_default();
        let table = Arc::make_mut(port);
        match listener.spec.hostname.as_deref() {
            None => table.any = Some(Arc::clone(listener)),
            Some(host) => {
                let (map, key) = match host.strip_prefix('*') {
                    Some(suffix) => (&mut table.wildcard, suffix),
                    None => (&mut table.exact, host),
                };
                map.insert(key.to_owned(), Arc::clone(listener));
            }
        }
    }

    fn unplace(&mut self, listener: &Listener) {
        let Some(port) = self.ports.get_mut(&listener.spec.port) else {
            return;
        };
        let table = Arc::make_mut(port);
        // In one delta another listener may already have taken the host over.
        let own = |other: &Arc<Listener>| other.name == listener.name;
        match listener.spec.hostname.as_deref() {
            None => {
                if table.any.as_ref().is_some_and(own) {
                    table.any = None;
                }
            }
            Some(host) => {
                let (map, key) = match host.strip_prefix('*') {
                    Some(suffix) => (&mut table.wildcard, suffix),
                    None => (&mut table.exact, host),
                };
                if map.get(key).is_some_and(own) {
                    map.remove(key);
                }
            }
        }
        if table.any.is_none() && table.exact.is_empty() && table.wildcard.is_empty() {
            self.ports.remove(&listener.spec.port);
        }
    }

    fn replace_rule(&mut self, route: &RouteKey, index: u16, new: Option<Arc<Rule<B>>>) {
        let old = self.rules.remove(&RuleName(route, index));
        if let Some(NamedRule(old)) = &old {
            for attachment in &old.attachments {
                let Some(table) = self.routes.get_mut(&attachment.listener) else {
                    continue;
                };
                for host in &attachment.hosts {
                    table.remove(host, old);
                }
                if table.is_empty() {
                    self.routes.remove(&attachment.listener);
                }
            }
        }
        self.rehash(
            old.map(|old| old.0.entry_hash),
            new.as_ref().map(|new| new.entry_hash),
        );
        if let Some(rule) = new {
            for attachment in &rule.attachments {
                let table = self.routes.entry(attachment.listener.clone()).or_default();
                for host in &attachment.hosts {
                    table.insert(host, &rule);
                }
            }
            self.rules.insert(NamedRule(rule));
        }
    }
}
