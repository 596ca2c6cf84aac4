//! Faults that a test puts into the code, to see that the tests find each of them. Elsewhere they are not there:
//! [`on`] is a constant then.

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A vote is answered before it is on disk.
    SkipVoteSync,
    /// An entry is acknowledged before it is on disk.
    AckBeforeSync,
    /// A restarted node takes the members that it was founded with, and does not know what was committed.
    ForgetMembers,
    /// A restarted node does not know what was committed. Too rare for the simulation: a test of its own shows it.
    ForgetCommit,
    /// An entry counts as committed once it is on the leader's disk.
    CommitWithoutQuorum,
    /// An entry is applied twice now and then.
    ApplyTwice,
    /// A snapshot between the entries of one proposal claims to hold the first ones.
    SnapshotInside,
    /// A leader says that it leads before it has applied what earlier ones acknowledged.
    LeadEarly,
    /// A barrier is answered without asking anyone.
    SkipBarrier,
    /// A leader's snapshot is put in place without being announced in the log.
    InstallUnannounced,
}

#[cfg(not(test))]
pub(crate) const fn on(_: Mutation) -> bool {
    false
}

#[cfg(test)]
pub(crate) use active::{on, with};

#[cfg(test)]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    pub(crate) fn on(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }

    /// Runs `work` with the fault, in this thread.
    pub(crate) fn with<T>(mutation: Option<Mutation>, work: impl FnOnce() -> T) -> T {
        struct Reset(Option<Mutation>);
        impl Drop for Reset {
            fn drop(&mut self) {
                ACTIVE.set(self.0);
            }
        }
        let _reset = Reset(ACTIVE.replace(mutation));
        work()
    }
}

#[test]
fn a_fault_is_there_as_long_as_it_is_asked_for() {
    let seen = with(Some(Mutation::ApplyTwice), || {
        (on(Mutation::ApplyTwice), on(Mutation::SkipVoteSync))
    });
    assert_eq!(seen, (true, false));
    assert!(!on(Mutation::ApplyTwice));
}
