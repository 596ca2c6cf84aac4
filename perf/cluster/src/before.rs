//! How the machine was before the first cluster came up. The last one to go down leaves it so.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{Cluster, kernel, mounts, network};

/// What was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) network: network::Before,
    /// Folders that were not there and are made for mounts.
    pub(crate) folders: Vec<PathBuf>,
    /// Kernel settings and their values.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Before {
    /// Looks, and writes it down for [`Before::restore`], unless another cluster is up and did so.
    pub(crate) fn remember(cluster: &Cluster) -> anyhow::Result<()> {
        let file = file(cluster);
        if file.exists() {
            return Ok(());
        }
        let now = Self {
            network: network::Before::now()?,
            folders: mounts::missing(),
            settings: kernel::settings(),
        };
        let new = file.with_extension("new");
        fs::write(&new, now.write()).with_context(|| format!("write {}", new.display()))?;
        // What is there is whole.
        fs::rename(&new, &file)?;
        Ok(())
    }

    /// Takes the name of the cluster's network away; and when no other cluster is left, puts the rest back as it was.
    pub(crate) fn restore(cluster: &Cluster) -> anyhow::Result<()> {
        network::remove(cluster.name())?;
        let file = file(cluster);
        let others = fs::read_dir(cluster.home().join("state"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().is_dir() && entry.path() != cluster.state());
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(());
        };
        if others {
            return Ok(());
        }
        let before = Self::read(&text).with_context(|| format!("read {}", file.display()))?;
        network::restore(before.network)?;
        mounts::remove(&before.folders);
        kernel::restore(&before.settings)?;
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    fn write(&self) -> String {
        let value = json!({
            "networkFolder": self.network.folder,
            "networkMount": self.network.mount,
            "folders": self.folders,
            "settings": self.settings,
        });
        format!("{value:#}\n")
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let texts = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Self {
            network: network::Before {
                folder: value["networkFolder"].as_bool().unwrap_or(true),
                mount: value["networkMount"].as_bool().unwrap_or(true),
            },
            folders: value["folders"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|folder| Some(texts(folder)?.into()))
                .collect(),
            settings: value["settings"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), texts(value)?)))
                .collect(),
        })
    }
}

fn file(cluster: &Cluster) -> PathBuf {
    cluster.home().join("state").join("before.json")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let before = Before {
            network: network::Before {
                folder: true,
                mount: false,
            },
            folders: vec!["/var/lib/cni".into()],
            settings: BTreeMap::from([("kernel/panic".to_owned(), "0".to_owned())]),
        };
        assert_eq!(Before::read(&before.write()).unwrap(), before);
    }
}
