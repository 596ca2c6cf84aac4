//! From manifests to the objects that translate reads: what an API server does between `kubectl apply` and a watch.
//!
//! ```text
//!   bytes --manifest--> documents --schema--> valid, defaulted --cel--> --decode--> spec::Object
//!                                   `--------------------------------------------> spec::Rejected
//! ```
//!
//! **Invariants**
//! - The same manifest gives the same object from a folder as from a cluster: validated and defaulted by the CRDs' own
//!   schema and CEL rules, unknown fields refused.
//! - One document that is refused is one [`spec::Rejected`], which names object, field and fix; others are not affected.
//! - Only [`decode`] sees generated types.
//!
//! What is not evaluated, by name: [`schema::not_evaluated`].
//!
//! It deliberately does not know: files, clusters, what objects mean together.

pub mod certificate;
pub mod decode;
pub mod manifest;
pub mod schema;
pub mod spec;

pub use decode::{Decoded, decode, decode_admitted};
pub use manifest::{Document, ManifestError, Provenance};
