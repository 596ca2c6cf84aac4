//! A group of members in one thread, from a seed: the real [`Driver`](crate::node::driver::Driver) and store of each,
//! and around them a network that loses, doubles, reorders and delays messages and is cut (also one way), disks that
//! tear and lose what was not synced, crashes at any step, full disks, hand-overs, and members that come and go.
//!
//! ```text
//!   World::step --> tick, message, proposal, barrier, change --> Member (Driver on a FakeDisk) --> Network
//!        `--> crash, cut, full disk, lost volume                        `--> Model, Answers: invariants
//! ```
//! **Invariants**, checked after everything that a member does:
//! - at most one leader for each term;
//! - all members apply the same proposals in the same order, each once, across restarts and snapshots (their state is
//!   a hash over all of them, as the model's is);
//! - a proposal that was acknowledged is at its index, and a member that says it leads has applied all that earlier
//!   leaders acknowledged;
//! - a barrier that succeeds has seen all that was acknowledged before it was asked for;
//! - a whole log is never refused after a crash;
//! - after healing all members have the same state, with all that was acknowledged.
//!
//! A failing seed prints the command that replays it. [`Mutation`](crate::mutation::Mutation)s show that each invariant
//! can break.

mod member;
mod model;
mod network;
mod roster;
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::world::World;

/// What happened in a run; tells whether it was worth something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Figures {
    acknowledged: u64,
    barriers: u64,
    leaders: u64,
    snapshots_sent: u64,
    crashes: u64,
    changes: u64,
    handed_over: u64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.barriers += other.barriers;
        self.leaders += other.leaders;
        self.snapshots_sent += other.snapshots_sent;
        self.crashes += other.crashes;
        self.changes += other.changes;
        self.handed_over += other.handed_over;
    }
}

/// Runs `steps` random steps in a world, `rough` or any, and heals. A panic of the code under test is a violation as well.
///
/// # Errors
/// What is wrong.
fn run(seed: u64, steps: u64, rough: bool) -> Result<Figures, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, rough)?;
        for _ in 0..steps {
            world.step()?;
        }
        world.heal()?;
        Ok(world.figures())
    }));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}
