//! `translate`: stages 2 to 5 without an operator.

use std::path::Path;

use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::{Dirty, Index};
use operator_translate::Translation;
use serde_json::{Value, json};

use crate::get::Output;

/// Prints what a folder of manifests becomes: problems, snapshot, statuses. Exits 1 when something is wrong with a file.
pub(crate) fn run(folder: &Path, output: Output) -> anyhow::Result<()> {
    let batch = operator_source::load_folder(folder)?;
    let mut index = Index::new();
    for event in batch.events {
        index.apply(event);
    }
    let mut translation = Translation::new();
    translation.update(&index, Dirty::all(&index));
    let gateways: Vec<Value> = translation
        .gateways()
        .map(|key| {
            let entries: Vec<(GatewayEntryKey, GatewayEntry)> =
                translation.entries(key).into_iter().collect();
            json!({"gateway": key, "entries": entries})
        })
        .collect();
    let backends: Vec<Value> = translation
        .backends()
        .map(|(key, backend)| json!({"backend": key, "fact": backend}))
        .collect();
    let certificates: Vec<Value> = translation
        .certificates()
        .map(|(key, certificate)| json!({"certificate": key, "fact": certificate}))
        .collect();
    let statuses: Vec<Value> = translation
        .statuses()
        .map(|(key, status)| json!({"kind": key.kind, "namespace": key.namespace, "name": key.name, "status": status}))
        .collect();
    let problems: Vec<String> = batch.problems.iter().map(ToString::to_string).collect();
    let errors = batch
        .problems
        .iter()
        .filter(|problem| problem.is_error)
        .count();
    let view = json!({
        "problems": problems,
        "notes": crate::notes::notes(&operator_source::documents(folder)?),
        "snapshot": {"gateways": gateways, "backends": backends, "certificates": certificates},
        "statuses": statuses,
    });
    let text = match output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&view)?),
        Output::Yaml | Output::Wide => serde_saphyr::to_string(&view)?,
    };
    crate::print(&text);
    if errors > 0 {
        std::process::exit(1);
    }
    Ok(())
}
