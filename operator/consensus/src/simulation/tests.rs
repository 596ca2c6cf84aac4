#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failed unwrap is a failed test; what was found is told

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::{Figures, run};
use crate::mutation::{self, Mutation};
use crate::testing::seeds;

const STEPS: u64 = 2000;
/// Seeds within which each fault must show.
const MUTATED_SEEDS: u64 = 1000;

/// Runs seeds on as many threads as there are cores, until one fails. Gives the failing seed with what is wrong, or the
/// sum of the figures.
fn run_all(
    seeds: std::ops::Range<u64>,
    mutation: Option<Mutation>,
) -> Result<Figures, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Figures::default());
    // The lowest one that failed.
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().is_some() {
                return;
            }
            // It takes a crash right after a vote, in a contested term.
            let rough = seed % 4 == 3 || mutation == Some(Mutation::SkipVoteSync);
            match mutation::with(mutation, || run(seed, STEPS, rough)) {
                Ok(figures) => sum.lock().add(figures),
                Err(error) => {
                    let mut failed = failed.lock();
                    if failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                        *failed = Some((seed, error));
                    }
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let sum = *sum.lock();
    failed.into_inner().map_or(Ok(sum), Err)
}

#[test]
fn no_seed_breaks_an_invariant() {
    let seeds = seeds(1000);
    let runs = seeds.end - seeds.start;
    let figures = run_all(seeds, None).unwrap_or_else(|(seed, error)| {
        panic!(
            "seed {seed}: {error}\n\
             replay: CONSENSUS_SEED={seed} cargo test -p operator-consensus no_seed_breaks"
        )
    });
    // The runs did something: they average 50 answers, 2 barriers, 3 leaders, 2 snapshots, 6 crashes and 3 changes.
    if runs >= 100 {
        let Figures {
            acknowledged,
            barriers,
            leaders,
            snapshots_sent,
            crashes,
            changes,
            handed_over,
        } = figures;
        assert!(acknowledged > 20 * runs && barriers > runs, "{figures:?}");
        assert!(leaders > 2 * runs && handed_over > runs / 4, "{figures:?}");
        assert!(snapshots_sent > runs && crashes > 2 * runs, "{figures:?}");
        assert!(changes > runs, "{figures:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, STEPS, true), run(seed, STEPS, true));
    }
}

#[test]
fn each_fault_breaks_an_invariant() {
    for mutation in [
        Mutation::SkipVoteSync,
        Mutation::AckBeforeSync,
        Mutation::ForgetMembers,
        Mutation::CommitWithoutQuorum,
        Mutation::ApplyTwice,
        Mutation::SnapshotInside,
        Mutation::LeadEarly,
        Mutation::SkipBarrier,
        Mutation::InstallUnannounced,
    ] {
        let found = run_all(0..MUTATED_SEEDS, Some(mutation));
        let (seed, error) = found.expect_err(&format!("{mutation:?} stays unseen"));
        println!("{mutation:?} shows in seed {seed}: {error}");
    }
}
