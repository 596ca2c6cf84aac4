//! The objects of one kind that the API server has, as watches and our own writes tell.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Has Kubernetes' metadata.
pub(crate) trait Object {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

macro_rules! objects {
    ($($kind:ty),*) => {
        $(impl Object for $kind {
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        })*
    };
}

objects!(
    api_pool::ShardPool,
    k8s_openapi::api::apps::v1::StatefulSet,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::discovery::v1::EndpointSlice
);

/// Objects of one kind. Each watch has a scope of its own: a namespace, or all.
#[derive(Debug)]
pub(crate) struct Known<K> {
    objects: BTreeMap<Place, K>,
    scopes: Vec<Option<String>>,
    lists: BTreeMap<usize, Vec<K>>,
    unlisted: BTreeSet<usize>,
}

impl<K: Object> Known<K> {
    pub(crate) fn new(scopes: Vec<Option<String>>) -> Self {
        Self {
            objects: BTreeMap::new(),
            lists: BTreeMap::new(),
            unlisted: (0..scopes.len()).collect(),
            scopes,
        }
    }

    /// Whether each watch has listed once.
    pub(crate) fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    pub(crate) fn get(&self, place: &Place) -> Option<&K> {
        self.objects.get(place)
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.objects.keys()
    }

    /// Takes what a watch says. Gives what changed or went: before, and now.
    pub(crate) fn take(&mut self, scope: usize, event: Event<K>) -> Vec<Changed<K>>
    where
        K: Clone,
    {
        match event {
            Event::Init => {
                self.lists.insert(scope, Vec::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.lists.entry(scope).or_default().push(object);
                Vec::new()
            }
            Event::InitDone => self.replace(scope),
            Event::Apply(object) => self.put(object).into_iter().collect(),
            Event::Delete(object) => self.remove(&object).into_iter().collect(),
        }
    }

    fn replace(&mut self, scope: usize) -> Vec<Changed<K>>
    where
        K: Clone,
    {
        self.unlisted.remove(&scope);
        let list = self.lists.remove(&scope).unwrap_or_default();
        let there: BTreeSet<Place> = list.iter().map(|object| Place::of(object.meta())).collect();
        let namespace = self.scopes.get(scope).cloned().flatten();
        let gone: Vec<Place> = self
            .objects
            .keys()
            .filter(|place| namespace.as_ref().is_none_or(|of| *of == place.namespace))
            .filter(|place| !there.contains(place))
            .cloned()
            .collect();
        let gone = gone.into_iter().filter_map(|place| {
            let before = self.objects.remove(&place)?;
            Some(Changed {
                place,
                before: Some(before),
                now: None,
            })
        });
        let mut changed: Vec<Changed<K>> = gone.collect();
        changed.extend(list.into_iter().filter_map(|object| self.put(object)));
        changed
    }

    /// Takes an object as it is now, unless what is known is newer.
    pub(crate) fn put(&mut self, mut object: K) -> Option<Changed<K>>
    where
        K: Clone,
    {
        let meta = object.meta_mut();
        // Nothing of ours reads them, and they are as large as the rest.
        meta.managed_fields = None;
        let place = Place::of(meta);
        if let Some(known) = self.objects.get(&place)
            && known.meta().uid == meta.uid
            && version(known.meta()) >= version(meta)
        {
            return None;
        }
        let before = self.objects.insert(place.clone(), object.clone());
        Some(Changed {
            place,
            before,
            now: Some(object),
        })
    }

    /// Takes that an object is gone, unless another one has its name by now.
    pub(crate) fn remove(&mut self, object: &K) -> Option<Changed<K>> {
        self.remove_uid(&Place::of(object.meta()), object.meta().uid.as_deref())
    }

    pub(crate) fn remove_uid(&mut self, place: &Place, uid: Option<&str>) -> Option<Changed<K>> {
        let known = self.objects.get(place)?;
        if known.meta().uid.as_deref() != uid {
            return None;
        }
        Some(Changed {
            place: place.clone(),
            before: self.objects.remove(place),
            now: None,
        })
    }
}

/// An object that changed.
#[derive(Debug)]
pub(crate) struct Changed<K> {
    pub(crate) place: Place,
    pub(crate) before: Option<K>,
    pub(crate) now: Option<K>,
}

/// Grows with each write (they can be compared since Kubernetes 1.35, and could before); one that is no number is as new as
/// any.
fn version(meta: &ObjectMeta) -> u64 {
    let version = meta.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(name: &str, uid: &str, version: u64) -> Service {
        let mut service = Service::default();
        service.metadata.namespace = Some("a".into());
        service.metadata.name = Some(name.into());
        service.metadata.uid = Some(uid.into());
        service.metadata.resource_version = Some(version.to_string());
        service
    }

    fn names(changed: &[Changed<Service>]) -> Vec<(&str, bool)> {
        let changed = changed.iter();
        changed
            .map(|of| (of.place.name.as_str(), of.now.is_some()))
            .collect()
    }

    #[test]
    fn a_relist_replaces_at_its_end() {
        let mut known = Known::new(vec![None]);
        assert!(!known.is_listed());
        for event in [
            Event::Init,
            Event::InitApply(service("x", "1", 1)),
            Event::InitApply(service("y", "2", 2)),
        ] {
            assert!(known.take(0, event).is_empty());
        }
        assert_eq!(
            names(&known.take(0, Event::InitDone)),
            [("x", true), ("y", true)]
        );
        assert!(known.is_listed());
        known.take(0, Event::Init);
        known.take(0, Event::InitApply(service("y", "2", 2)));
        known.take(0, Event::InitApply(service("z", "3", 3)));
        assert_eq!(known.places().count(), 2);
        assert_eq!(
            names(&known.take(0, Event::InitDone)),
            [("x", false), ("z", true)]
        );
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let mut known = Known::new(vec![Some("a".into()), Some("b".into())]);
        known.put(service("x", "1", 1));
        known.take(1, Event::Init);
        assert!(known.take(1, Event::InitDone).is_empty());
        assert!(!known.is_listed());
        known.take(0, Event::Init);
        assert_eq!(names(&known.take(0, Event::InitDone)), [("x", false)]);
        assert!(known.is_listed());
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let mut known = Known::new(vec![None]);
        known.put(service("x", "1", 10));
        assert!(known.take(0, Event::Apply(service("x", "1", 9))).is_empty());
        assert!(
            known
                .take(0, Event::Delete(service("x", "0", 11)))
                .is_empty()
        );
        assert_eq!(
            names(&known.take(0, Event::Apply(service("x", "2", 12)))),
            [("x", true)]
        );
        assert_eq!(
            names(&known.take(0, Event::Delete(service("x", "2", 13)))),
            [("x", false)]
        );
    }
}
