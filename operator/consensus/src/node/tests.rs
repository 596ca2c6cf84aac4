//! The node with its thread, on a real folder.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod group;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::{Nobody, Node, start, start_on};
use crate::store::fake::FakeDisk;
use crate::testing::Ledger;
use crate::{Config, ProposeError, StartError, StateMachine};

fn state() -> Arc<RwLock<Ledger>> {
    Arc::new(RwLock::new(Ledger::default()))
}

fn on(disk: &FakeDisk, change: impl FnOnce(&mut Config)) -> Node<u64> {
    let mut config = Config::single("fake".into());
    change(&mut config);
    start_on(config, disk.boxed(), state(), |_| {}, Box::new(Nobody)).unwrap()
}

#[tokio::test]
async fn what_was_proposed_is_there_after_a_restart_and_observed_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::single(folder.path().join("raft"));
    let observed = Arc::new(Mutex::new(Vec::new()));
    let observe = |observed: &Arc<Mutex<Vec<u64>>>| {
        let observed = Arc::clone(observed);
        move |applied: crate::Applied<u64>| observed.lock().push(applied.index)
    };
    let node = start(config.clone(), state(), observe(&observed)).unwrap();
    let mut indices = Vec::new();
    for n in 0..5_u8 {
        let committed = node.propose(vec![n]).await.unwrap();
        assert_eq!(committed.index, committed.output);
        indices.push(committed.index);
    }
    let status = node.status();
    assert_eq!((status.role, status.leader), ("leader", Some(1)));
    assert_eq!(*observed.lock(), indices);
    // A second process on the same folder.
    let refused = start(config.clone(), state(), |_| {}).err().unwrap();
    let text = api_telemetry::Chain(&refused).to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    node.shutdown();

    let again = state();
    let node = start(config, Arc::clone(&again), observe(&observed)).unwrap();
    let expected: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n]).collect();
    assert_eq!(again.read().contents(), expected);
    assert_eq!(
        *observed.lock(),
        indices,
        "replayed entries are not observed"
    );
    assert!(node.status().term > status.term);
    node.shutdown();
}

#[tokio::test]
async fn proposals_at_once_share_syncs() {
    let disk = FakeDisk::default();
    // The observer holds the thread at the first proposal until the others wait.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let observe = move |_: crate::Observed<u64>| {
        let _ = gate.recv();
    };
    let node = start_on(
        Config::single("fake".into()),
        disk.boxed(),
        state(),
        observe,
        Box::new(Nobody),
    )
    .unwrap();
    let before = disk.syncs();
    let mut proposals: Vec<_> = (0..501_u64)
        .map(|n| Box::pin(node.propose(n.to_le_bytes().to_vec())))
        .collect();
    for proposal in &mut proposals {
        assert!(futures::poll!(proposal).is_pending());
    }
    drop(open);
    for proposal in proposals {
        proposal.await.unwrap();
    }
    // The first ones, then two groups of at most 256, and one segment that may have to be made.
    let syncs = disk.syncs() - before;
    assert!(syncs <= 5, "{syncs} syncs for 501 proposals");
    node.shutdown();
}

#[tokio::test]
async fn proposals_over_a_limit_are_refused() {
    let node = on(&FakeDisk::default(), |config| {
        config.proposal_bytes_max = 10;
    });
    let refused = node.propose(vec![0; 11]).await;
    assert_eq!(
        refused.unwrap_err(),
        ProposeError::TooLarge { bytes: 11, max: 10 }
    );
    node.propose(vec![0; 10]).await.unwrap();
    node.shutdown();
}

#[tokio::test]
async fn a_failed_disk_stops_the_node_and_says_so() {
    for sync in [true, false] {
        let disk = FakeDisk::default();
        let node = on(&disk, |_| {});
        node.propose(vec![1]).await.unwrap();
        disk.set_failing_sync(sync);
        disk.set_failing_write(!sync);
        assert_eq!(
            node.propose(vec![2]).await.unwrap_err(),
            ProposeError::Stopped
        );
        let stopped = tokio::time::timeout(Duration::from_secs(10), node.stopped());
        stopped.await.unwrap();
        assert!(node.has_stopped());
        assert_eq!(node.status().role, "stopped");
        assert_eq!(
            node.propose(vec![3]).await.unwrap_err(),
            ProposeError::Stopped
        );
        node.shutdown();
    }
}

/// Panics at the second proposal.
#[derive(Default)]
struct Fragile(bool);

impl StateMachine for Fragile {
    type Output = ();

    fn apply(&mut self, _: u64, _: &[u8]) {
        assert!(
            !std::mem::replace(&mut self.0, true),
            "asked for by the test"
        );
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn a_state_machine_that_panics_stops_the_node() {
    let disk = FakeDisk::default();
    let state = Arc::new(RwLock::new(Fragile::default()));
    let node = start_on(
        Config::single("fake".into()),
        disk.boxed(),
        state,
        |_| {},
        Box::new(Nobody),
    )
    .unwrap();
    node.propose(vec![1]).await.unwrap();
    assert_eq!(
        node.propose(vec![2]).await.unwrap_err(),
        ProposeError::Stopped
    );
    let stopped = tokio::time::timeout(Duration::from_secs(10), node.stopped());
    stopped.await.unwrap();
    assert_eq!(node.status().role, "stopped");
}

#[tokio::test]
async fn bytes_that_wait_are_bounded() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let observe = move |_: crate::Observed<u64>| {
        let _ = gate.recv();
    };
    let mut config = Config::single("fake".into());
    config.proposals_bytes_max = 1000;
    let node = start_on(
        config,
        FakeDisk::default().boxed(),
        state(),
        observe,
        Box::new(Nobody),
    )
    .unwrap();
    // A first one always passes, whatever its size.
    let mut first = Box::pin(node.propose(vec![1; 1500]));
    assert!(futures::poll!(&mut first).is_pending());
    assert_eq!(
        node.propose(vec![2; 10]).await.unwrap_err(),
        ProposeError::QueueFull
    );
    drop(open);
    first.await.unwrap();
    node.propose(vec![3; 10]).await.unwrap();
    node.shutdown();
}

#[tokio::test]
async fn a_damaged_folder_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::single(folder.path().into());
    let node = start(config.clone(), state(), |_| {}).unwrap();
    for _ in 0..3 {
        node.propose(vec![7; 100]).await.unwrap();
    }
    node.shutdown();
    let log = folder.path().join("log-0000000000000001");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[150] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let refused = start(config, state(), |_| {}).err().unwrap();
    assert!(matches!(refused, StartError::Store { .. }));
    let text = api_telemetry::Chain(&refused).to_string();
    for part in ["log-0000000000000001", "at byte", "move it aside"] {
        assert!(text.contains(part), "{text}");
    }
}
