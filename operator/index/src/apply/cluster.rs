//! What an installation is made of: parameters of Gateways, the pool, the CRDs.

use std::sync::Arc;

use api::{ObjectKey, PoolKey};
use operator_objects::spec::{ConfigMap, Crd, ShardPool};

use super::replace;
use crate::references::class_name;
use crate::{Dirty, Index};

impl Index {
    pub(super) fn set_config_map(
        &mut self,
        key: &ObjectKey,
        new: Option<ConfigMap>,
        dirty: &mut Dirty,
    ) {
        let Some((old, new)) = replace(&mut self.config_maps, key, new) else {
            return;
        };
        let data = |map: &Option<Arc<ConfigMap>>| map.as_ref().map(|map| map.data.clone());
        if data(&old) != data(&new) {
            let gateways = self.links.gateways_by_config_map.of(key);
            dirty.gateways.extend(gateways.cloned());
        }
    }

    pub(super) fn set_pool(&mut self, key: &PoolKey, new: Option<ShardPool>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.pools, key, new) else {
            return;
        };
        // What a Gateway's parameters are put over has changed.
        let with_parameters = self.links.gateways_by_config_map.values();
        dirty.gateways.extend(with_parameters.cloned());
        for (name, class) in &self.classes {
            let names_it = class.parameters_ref.as_ref().is_some_and(|of| {
                of.name == key.name && of.namespace.as_deref() == Some(key.namespace.as_str())
            });
            if names_it {
                dirty.classes.insert(name.clone());
                if old.is_some() != new.is_some() {
                    let gateways = self.links.gateways_by_class.of(name);
                    dirty.gateways.extend(gateways.cloned());
                }
            }
        }
    }

    /// What a class supports follows from the CRDs that there are.
    pub(super) fn set_crd(&mut self, name: &str, new: Option<Crd>, dirty: &mut Dirty) {
        if replace(&mut self.crds, &name.to_owned(), new).is_some() {
            dirty.classes.extend(self.classes.keys().cloned());
            // One that was never read has a status too.
            for key in self.rejected.keys().filter(|key| class_name(key).is_some()) {
                dirty.mark(key);
            }
        }
    }
}
