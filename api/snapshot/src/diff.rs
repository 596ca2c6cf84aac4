//! From two sets of entries to the operations between them.

use minicbor::Encode;

use crate::{EntrySet, Op};

/// Operations that turn `old` into `new`, in canonical order; empty when they are equal.
///
/// Cost: O(entries). Incremental callers compare just the keys that they touched.
pub fn diff(old: &EntrySet, new: &EntrySet) -> Vec<Op> {
    let mut ops: Vec<Op> = old
        .iter()
        .filter(|(key, _)| new.value(key).is_none())
        .map(|(key, _)| Op {
            key: key.to_vec(),
            value: None,
        })
        .collect();
    ops.extend(
        new.iter()
            .filter(|(key, value)| old.value(key) != Some(value))
            .map(|(key, value)| Op {
                key: key.to_vec(),
                value: Some(value.to_vec()),
            }),
    );
    ops.sort_by(|a, b| a.key.cmp(&b.key));
    ops
}

/// As [`diff`], for typed entries.
pub fn diff_typed<K: Encode<()>, V: Encode<()>>(
    old: &EntrySet,
    new: impl IntoIterator<Item = (K, V)>,
) -> Vec<Op> {
    let ops: Vec<Op> = new
        .into_iter()
        .map(|(key, value)| Op::put(&key, &value))
        .collect();
    diff(old, &ops.iter().collect())
}
