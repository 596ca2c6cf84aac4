#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

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
            match mutation::with(mutation, || run(seed, STEPS)) {
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
    let figures = match run_all(seeds, None) {
        Ok(figures) => figures,
        Err((seed, error)) => panic!(
            "seed {seed}: {error}\nreplay: CONSENSUS_SEED={seed} cargo test -p operator-consensus no_seed_breaks"
        ),
    };
    eprintln!("{runs} runs: {figures:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, STEPS), run(seed, STEPS));
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
        match run_all(0..MUTATED_SEEDS, Some(mutation)) {
            Err((seed, error)) => eprintln!("{mutation:?}: seed {seed}: {error}"),
            Ok(_) => eprintln!("{mutation:?} stays unseen in {MUTATED_SEEDS} runs"),
        }
    }
}
