//! What users read: full statuses, and where they are kept.
//!
//! ```text
//!   translate's conditions + progress of the rollout + placement --render--> Statuses --StatusFolder--> DATA/status
//! ```
//!
//! **Invariants**
//! - `Programmed` is True only when every live shard of the Gateway serves a revision that carries its generation. A revision
//!   that carries others' changes does not take it back.
//! - `lastTransitionTime` moves with `status` alone, also over a restart.
//! - A status that is the same as before is not written.
//!
//! It deliberately does not know: Raft, streams, how anything is served.

mod folder;
mod programmed;
mod render;
mod statuses;
mod times;

pub use folder::{StatusFolder, WriteError};
pub use render::{
    GatewayFacts, ListenerFacts, ParentFacts, StatusAddress, class_status, gateway_status,
    route_status,
};
pub use statuses::{Change, Statuses};
pub use times::keep_transition_times;
