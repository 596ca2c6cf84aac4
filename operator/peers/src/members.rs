//! Which raft id each replica has, and how that changes.
//!
//! ```text
//!   empty disk --join--> MembersStore (a file, or a ConfigMap) <--keep-- leader: plan (pure) --> raft's changes
//!         `--> Local, on the disk itself: a replica that has it starts without the store
//! ```
//!
//! A replica is known to Kubernetes by its ordinal and to raft by an id. Raft needs two kinds of certainty: that no two disks
//! ever have one id, and that a disk that is lost takes its id with it, since what it promised (votes, acknowledged
//! entries) is lost with it. So a disk draws a token before anything else, and claims an id with it in the store, once. A
//! replica that comes with another disk than the one that claimed its id gets a new id, joins as a learner, and the
//! leader removes the old one.

mod document;
mod file;
mod join;
mod keep;
mod kube;
mod local;
mod plan;
mod store;

pub use document::{Document, Member, MemberState, Standing};
pub use file::FileStore;
pub use join::{Founding, JoinError, Membership, join};
pub use keep::{Group, Keeping, keep};
pub use kube::KubeStore;
pub use local::{Local, LocalError};
pub use plan::{Step, plan};
pub use store::{MembersStore, StoreError, Versioned};
