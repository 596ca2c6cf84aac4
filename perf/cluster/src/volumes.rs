//! Makes a folder of the machine for each claim of the StorageClass `local`, and removes it when the claim is gone.
//!
//! Two loops, one on claims and one on volumes; each lists all, then follows changes until the watch ends, then again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::api::Api;

/// The StorageClass, in addons/storage.yaml.
const CLASS: &str = "local";
/// Its provisioner.
const PROVISIONER: &str = "shardway.dev/local";
/// Pause after a loop that ended with an error.
const PAUSE: Duration = Duration::from_secs(1);

const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";

/// Runs until it is killed; folders are made below `root`.
pub fn run(api: &Api, root: &Path, say: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| follow(api, CLAIMS, &say, |claim| make(api, root, claim, &say)));
        scope.spawn(|| follow(api, VOLUMES, &say, |volume| clean(api, root, volume, &say)));
    });
}

fn follow(api: &Api, path: &str, say: &impl Fn(&str), each: impl Fn(&Value) -> anyhow::Result<()>) {
    let once = || {
        let list = api.get(path)?;
        for object in list["items"].as_array().into_iter().flatten() {
            each(object)?;
        }
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        api.watch(path, version, |event, object| match event {
            "DELETED" => Ok(()),
            _ => each(object),
        })
    };
    loop {
        if let Err(error) = once() {
            say(&format!("{error:#}; trying again"));
            std::thread::sleep(PAUSE);
        }
    }
}

/// Makes the volume of a claim that has none.
fn make(api: &Api, root: &Path, claim: &Value, say: &impl Fn(&str)) -> anyhow::Result<()> {
    let Some(volume) = volume(root, claim) else {
        return Ok(());
    };
    let folder = PathBuf::from(
        volume["spec"]["hostPath"]["path"]
            .as_str()
            .unwrap_or_default(),
    );
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    // A folder of the machine does not follow a pod's fsGroup, so everybody may write.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let answer = api.create(VOLUMES, &volume)?;
    match answer.status {
        201 => {
            say(&format!(
                "made {} for {}",
                folder.display(),
                volume["spec"]["claimRef"]["name"]
            ));
            Ok(())
        }
        // Made on an earlier event.
        409 => Ok(()),
        status => bail!("make a volume: {status} {}", answer.body["message"]),
    }
}

/// The volume that a claim waits for, if it is one of ours and has none.
fn volume(root: &Path, claim: &Value) -> Option<Value> {
    let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
    let waits = spec["storageClassName"] == CLASS
        && spec["volumeName"].as_str().unwrap_or_default().is_empty()
        && metadata["deletionTimestamp"].is_null();
    if !waits {
        return None;
    }
    let name = format!("pvc-{}", metadata["uid"].as_str()?);
    Some(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "hostPath": {"path": root.join(&name), "type": "DirectoryOrCreate"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "volumeMode": "Filesystem",
        },
    }))
}

/// Removes a volume whose claim is gone, its folder first.
fn clean(api: &Api, root: &Path, volume: &Value, say: &impl Fn(&str)) -> anyhow::Result<()> {
    let Some(folder) = folder_to_remove(root, volume) else {
        return Ok(());
    };
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", folder.display()));
        }
        _ => say(&format!("removed {}", folder.display())),
    }
    let name = volume["metadata"]["name"].as_str().unwrap_or_default();
    let answer = api.delete(&format!("{VOLUMES}/{name}"))?;
    match answer.status {
        200 | 202 | 404 => Ok(()),
        status => bail!(
            "delete the volume {name}: {status} {}",
            answer.body["message"]
        ),
    }
}

/// The folder of a volume that we made and nobody claims any more. Never one outside `root`, whatever a volume says.
fn folder_to_remove(root: &Path, volume: &Value) -> Option<PathBuf> {
    let metadata = &volume["metadata"];
    let ours = metadata["annotations"]["pv.kubernetes.io/provisioned-by"] == PROVISIONER
        && metadata["deletionTimestamp"].is_null()
        && volume["status"]["phase"] == "Released"
        && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete";
    let name = metadata["name"].as_str()?;
    let folder = root.join(name);
    let plain = name.starts_with("pvc-") && !name.contains(['/', '.']);
    let path = Path::new(volume["spec"]["hostPath"]["path"].as_str()?);
    (ours && plain && path == folder).then_some(folder)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn claim() -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "a", "uid": "1-2"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
                "storageClassName": "local",
            },
        })
    }

    #[test]
    fn a_claim_gets_a_folder_of_its_own() {
        let volume = volume(Path::new("/v"), &claim()).unwrap();
        assert_eq!(volume["spec"]["hostPath"]["path"], "/v/pvc-1-2");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "1-2");
        assert_eq!(volume["spec"]["capacity"]["storage"], "1Gi");
    }

    #[test]
    fn a_claim_that_needs_nothing_gets_nothing() {
        let mut bound = claim();
        bound["spec"]["volumeName"] = "pvc-1-2".into();
        let mut other = claim();
        other["spec"]["storageClassName"] = "fast".into();
        let mut leaving = claim();
        leaving["metadata"]["deletionTimestamp"] = "x".into();
        for claim in [bound, other, leaving] {
            assert_eq!(volume(Path::new("/v"), &claim), None);
        }
    }

    #[test]
    fn only_released_folders_of_ours_are_removed() {
        let root = Path::new("/v");
        let mut released = volume(root, &claim()).unwrap();
        assert_eq!(folder_to_remove(root, &released), None);
        released["status"]["phase"] = "Released".into();
        assert_eq!(folder_to_remove(root, &released), Some("/v/pvc-1-2".into()));
        let mut elsewhere = released.clone();
        elsewhere["spec"]["hostPath"]["path"] = "/etc".into();
        assert_eq!(folder_to_remove(root, &elsewhere), None);
        let mut foreign = released;
        foreign["metadata"]["annotations"] = json!({});
        assert_eq!(folder_to_remove(root, &foreign), None);
    }
}
