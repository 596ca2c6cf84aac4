//! Files that nobody else may read.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::IdentityError;

/// Writes a file of mode 0600 so that a crash leaves it old or new, and on disk.
///
/// # Errors
/// [`IdentityError::File`].
pub fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut out| {
            out.write_all(text.as_bytes())?;
            out.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all())
        .map_err(file("write", path))
}

/// Reads a file.
///
/// # Errors
/// [`IdentityError::File`].
pub fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(file("read", path))
}

pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File {
        action,
        path,
        source,
    }
}
