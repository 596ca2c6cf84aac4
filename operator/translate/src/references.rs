//! Facts with the number of those who refer to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Facts by key. A fact is there as long as something refers to it.
#[derive(Debug)]
pub(crate) struct References<K, V> {
    facts: BTreeMap<K, Counted<V>>,
    /// To be looked at when the update ends.
    touched: BTreeSet<K>,
}

#[derive(Debug)]
struct Counted<V> {
    count: u32,
    /// What was told last.
    value: Option<V>,
    /// What to tell next, where the referrer knows it.
    next: Option<V>,
}

impl<K, V> Default for References<K, V> {
    fn default() -> Self {
        Self {
            facts: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> References<K, V> {
    /// One referrer goes from `old` to `new`. Both are without duplicates.
    pub(crate) fn replace<'k>(
        &mut self,
        old: impl Iterator<Item = &'k K>,
        new: impl Iterator<Item = &'k K>,
    ) where
        K: 'k,
    {
        for key in new {
            match self.facts.get_mut(key) {
                Some(fact) => fact.count += 1,
                None => {
                    self.facts.insert(
                        key.clone(),
                        Counted {
                            count: 1,
                            value: None,
                            next: None,
                        },
                    );
                    self.touched.insert(key.clone());
                }
            }
        }
        for key in old {
            if let Some(fact) = self.facts.get_mut(key) {
                fact.count -= 1;
                if fact.count == 0 {
                    self.touched.insert(key.clone());
                }
            }
        }
    }

    /// The fact's value as the referrer knows it.
    pub(crate) fn set(&mut self, key: &K, value: &V) {
        if let Some(fact) = self.facts.get_mut(key) {
            fact.next = Some(value.clone());
            self.touched.insert(key.clone());
        }
    }

    /// Facts of a range are to be computed again.
    pub(crate) fn refresh_range(&mut self, range: RangeInclusive<K>) {
        let keys = self.facts.range(range).map(|(key, _)| key.clone());
        self.touched.extend(keys);
    }

    /// Ends an update whose facts are computed: what changed, none for a fact that nothing refers to any more.
    pub(crate) fn settle(&mut self, compute: impl Fn(&K) -> V) -> BTreeMap<K, Option<V>> {
        self.settle_with(|key, _| Some(compute(key)))
    }

    /// As [`References::settle`], for facts that referrers [`References::set`].
    pub(crate) fn settle_set(&mut self) -> BTreeMap<K, Option<V>> {
        self.settle_with(|_, next| next.take())
    }

    fn settle_with(
        &mut self,
        value: impl Fn(&K, &mut Option<V>) -> Option<V>,
    ) -> BTreeMap<K, Option<V>> {
        let mut changes = BTreeMap::new();
        for key in std::mem::take(&mut self.touched) {
            let Some(fact) = self.facts.get_mut(&key) else {
                continue;
            };
            if fact.count == 0 {
                let told = self
                    .facts
                    .remove(&key)
                    .is_some_and(|fact| fact.value.is_some());
                if told {
                    changes.insert(key, None);
                }
                continue;
            }
            let new = value(&key, &mut fact.next);
            if new.is_some() && new != fact.value {
                fact.value.clone_from(&new);
                changes.insert(key, new);
            }
        }
        changes
    }

    /// A fact that is referred to.
    pub(crate) fn value(&self, key: &K) -> Option<&V> {
        self.facts.get(key)?.value.as_ref()
    }

    /// Facts that are referred to.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.facts
            .iter()
            .filter_map(|(key, fact)| Some((key, fact.value.as_ref()?)))
    }
}
