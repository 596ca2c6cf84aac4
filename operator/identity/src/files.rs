//! Files that nobody else may read.

use std::fs;
use std::io;
use std::path::Path;

use crate::IdentityError;

/// Writes a file of mode 0600 so that a crash leaves it old or new, and on disk.
///
/// # Errors
/// [`IdentityError::File`].
pub fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    api_certificate::write_private(path, text).map_err(file("write", path))
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
