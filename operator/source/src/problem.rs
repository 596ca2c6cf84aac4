//! What is wrong with a file.

use std::path::PathBuf;

use api::ObjectKey;

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Which file; empty for what is not in one.
    pub file: PathBuf,
    /// Where in it, from 1.
    pub line: usize,
    /// The object at fault, if it can be told.
    pub object: Option<ObjectKey>,
    /// What is wrong, and the fix.
    pub message: String,
    /// Whether it is an error; kinds that are not looked at are none.
    pub is_error: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}:{}: ", self.file.display(), self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}
