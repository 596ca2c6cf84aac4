//! Settings of the whole machine that kubelet changes when it starts; `down` puts them back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

/// What kubelet sets, below `/proc/sys`.
const SETTINGS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The settings as they are.
pub(crate) fn settings() -> BTreeMap<String, String> {
    SETTINGS
        .iter()
        .filter_map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            Some(((*name).to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Puts settings back that differ.
pub(crate) fn restore(before: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let now = settings();
    for (name, value) in before {
        if now.get(name) != Some(value) {
            fs::write(Path::new("/proc/sys").join(name), value)
                .with_context(|| format!("set {name} back to {value}"))?;
        }
    }
    Ok(())
}
