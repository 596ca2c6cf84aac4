//! Names of files: `log-<sequence>` and `snapshot-<index>`, 16 hexadecimal digits, so that they sort.

use super::StoreError;
use super::disk::Disk;

/// Files of one kind, told apart by a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(&'static str);

/// Segments; the number is the sequence of the first frame.
pub(super) const LOG: Kind = Kind("log-");
/// Snapshots; the number is the index.
pub(super) const SNAPSHOT: Kind = Kind("snapshot-");

impl Kind {
    pub(super) fn file(self, number: u64) -> String {
        format!("{}{number:016x}", self.0)
    }
}

/// Where a file is made before it is renamed into place.
pub(super) fn temporary(name: &str) -> String {
    format!("{name}.new")
}

/// Numbers of the files of one kind, ascending.
pub(super) fn numbered(disk: &dyn Disk, kind: Kind) -> Result<Vec<u64>, StoreError> {
    let mut numbers: Vec<u64> = list(disk)?
        .iter()
        .filter_map(|name| u64::from_str_radix(name.strip_prefix(kind.0)?, 16).ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes what a crash left half made.
pub(super) fn remove_unfinished(disk: &mut dyn Disk) -> Result<(), StoreError> {
    for name in list(disk)?.iter().filter(|name| name.ends_with(".new")) {
        disk.remove(name)
            .map_err(StoreError::io(format!("remove unfinished {name}")))?;
    }
    Ok(())
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, StoreError> {
    disk.list().map_err(StoreError::io("list the raft folder"))
}
