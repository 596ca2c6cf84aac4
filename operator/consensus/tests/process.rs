//! Real processes on a real folder: one proposes until it is killed, the next finds all that was acknowledged.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failed unwrap is a failed test; the child reports by its output

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use operator_consensus::{Config, Node, StateMachine, start};
use parking_lot::RwLock;

const FOLDER: &str = "CONSENSUS_TEST_FOLDER";
const ACKNOWLEDGED: &str = "acknowledged ";

/// The numbers that were applied.
#[derive(Default)]
struct Numbers(BTreeSet<u64>);

impl StateMachine for Numbers {
    type Output = bool;

    fn apply(&mut self, _: u64, data: &[u8]) -> bool {
        let number = u64::from_le_bytes(*data.first_chunk::<8>().unwrap());
        let new = self.0.insert(number);
        assert!(new, "{number} was applied twice");
        new
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let numbers = bytes.as_chunks::<8>().0.iter();
        self.0 = numbers.map(|number| u64::from_le_bytes(*number)).collect();
        Ok(())
    }
}

fn open(folder: &Path) -> (Node<bool>, Arc<RwLock<Numbers>>) {
    let state = Arc::new(RwLock::new(Numbers::default()));
    let mut config = Config::single(folder.into());
    // Snapshots fall into the kills as well.
    config.snapshot_after_entries = 20;
    let node = start(config, Arc::clone(&state), |_| {}).unwrap();
    (node, state)
}

/// Not a test by itself: what the killed process runs.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let (node, state) = open(Path::new(&folder));
    let first = state.read().0.last().map_or(0, |last| last + 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        // Bounded, should the parent die: it kills long before.
        for group in 0..100_000_u64 {
            let numbers = first + group * 3..first + group * 3 + 3;
            let proposals = numbers.clone().map(|number| {
                let mut data = number.to_le_bytes().to_vec();
                data.resize(
                    if number.is_multiple_of(50) {
                        2_000_000
                    } else {
                        700
                    },
                    7,
                );
                node.propose(data)
            });
            for answer in futures::future::join_all(proposals).await {
                answer.unwrap();
            }
            for number in numbers {
                println!("\n{ACKNOWLEDGED}{number}");
            }
            std::io::stdout().flush().unwrap();
        }
    });
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("raft");
    let mut acknowledged = BTreeSet::new();
    for round in 0..10 {
        let mut child = spawn(&folder);
        let output = BufReader::new(child.stdout.take().unwrap());
        let goal = acknowledged.len() + 20 + round * 7;
        for line in output.lines() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix(ACKNOWLEDGED) {
                acknowledged.insert(number.parse::<u64>().unwrap());
            }
            if acknowledged.len() == goal {
                if round == 0 {
                    refused_beside(&folder, child.id());
                }
                // What it still says before it is gone counts as well.
                child.kill().unwrap();
            }
        }
        assert!(acknowledged.len() >= goal, "the child ended by itself");
        child.wait().unwrap();
        let (node, state) = open(&folder);
        let found = state.read().0.clone();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        node.shutdown();
        // Seen is seen: the next process must have it, too.
        acknowledged = found;
    }
}

fn refused_beside(folder: &Path, holder: u32) {
    let state = Arc::new(RwLock::new(Numbers::default()));
    let refused = start(Config::single(folder.into()), state, |_| {}).err();
    let text = api_telemetry::Chain(&refused.unwrap()).to_string();
    assert!(text.contains(&format!("process {holder}")), "{text}");
    assert!(text.contains("stop that one or choose another"), "{text}");
}
