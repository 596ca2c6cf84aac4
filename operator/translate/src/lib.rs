//! From the view of all objects to routing entries and conditions. [pure]
//!
//! ```text
//!   Index --Dirty--> Translation::update --> Changes { entries per Gateway, facts, statuses }
//!                      |
//!      translate_class   translate_gateway   translate_route   backend   certificate
//!                          listener, overlap     attach, rule, filter, backend_ref
//!                                  \______________ resolve_ref ______________/
//! ```
//!
//! **Invariants**
//! - Total: bad input becomes a condition, never an error. One object's mistake, even a panic while it is translated,
//!   stays with that object.
//! - Incremental equals full: after any events, [`Translation::update`] has led to what [`Translation::full`] gives.
//! - A reference across namespaces is permitted by [`resolve_ref`] alone.
//! - One rule of a route is one entry for each Gateway that serves it. Merging and precedence are the shard's.
//! - A fact is there exactly as long as an entry refers to it.
//!
//! Decisions where the Gateway API leaves a choice:
//! - Conflicting listeners are all refused, the others of the Gateway are served.
//! - A rule that cannot be served is dropped (`PartiallyInvalid`, "Dropped Rule"); none left: `Accepted` is False.
//! - An object whose newest form is rejected goes on in its last good form as long as this process knows it, with
//!   `Accepted` False; after a restart it serves nothing until it is mended. An invalid GatewayClass does not take its
//!   Gateways down: they are served by the pool that there is.
//! - A listener without any valid certificate is not served; with some, it is served with those. A Secret whose newest form
//!   is no certificate of its key is rejected as any object is: its last good form is served.
//! - ExternalName Services are followed, against the API's advice, as this also runs where there is no cluster;
//!   who may refer to one is up to ReferenceGrants as for all Services.
//! - In a cluster, parameters and addresses that cannot be had refuse a Gateway (`Accepted` False) and take nothing away that
//!   is served: what it asks for is done by its Service, and there is none for one that was never good.
//!
//! It deliberately does not know: clocks, sockets, Kubernetes clients, placement, what shards have acknowledged.

mod attach;
mod backend;
mod backend_ref;
mod certificate;
mod changes;
mod class;
mod conflicts;
mod feature;
mod filter;
mod gateway;
mod grants;
mod hostname;
mod infrastructure;
mod listener;
mod overlap;
mod problem;
mod quarantine;
mod references;
mod route;
mod rule;
mod selector;
mod settings;
pub mod status;
mod translation;

pub use backend::backend;
pub use certificate::{CertificateProblem, Certificates, certificate};
pub use changes::{Changes, GatewayChange};
pub use class::translate_class;
pub use feature::{FEATURES, Feature, Needs};
pub use gateway::{Attachable, AttachableListener, GatewayOutput, translate_gateway};
pub use grants::{RefFrom, RefNotPermitted, RefTo, resolve_ref};
pub use infrastructure::GatewayInfrastructure;
pub use route::{Parents, RouteOutput, translate_route};
pub use settings::Settings;
pub use translation::Translation;
