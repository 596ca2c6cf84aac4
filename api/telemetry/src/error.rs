//! One way to print an error with its causes.

use std::error::Error;
use std::fmt;

/// Displays an error and each of its sources, joined by `: `. A source whose text the level above already ends
/// with is not repeated.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut above = self.0.to_string();
        f.write_str(&above)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !above.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            above = text;
            source = error.source();
        }
        Ok(())
    }
}
