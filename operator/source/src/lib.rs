//! Where objects come from when there is no API server: a folder of manifests.
//!
//! ```text
//!   folder --inotify, rescan--> changed files --Folder (pure)--> events, problems
//!                                                  ^ ages: uid, generation, first sight, on disk
//! ```
//!
//! **Invariants**
//! - Cost follows what changed: an unchanged file is not read, an unchanged document not validated.
//! - A file that is broken keeps its last good objects; of two files with one object the first known keeps it, over restarts.
//! - A file that is gone or empty is looked at again before its objects are deleted: those who save may take it away first.
//! - Uid, generation and age of an object survive a restart.
//!
//! It deliberately does not know what objects mean together.

mod ages;
mod dir;
mod folder;
mod problem;

pub use ages::{AgesError, Seen, SeenObject, spec_hash};
pub use dir::{DirSource, OpenError, documents, load_folder};
pub use folder::Batch;
pub use operator_objects::Document;
pub use problem::Problem;
