//! Several nodes with their threads and no network between them but calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::node::{Node, start_on};
use crate::store::fake::FakeDisk;
use crate::testing::Ledger;
use crate::{
    Change, ChangeError, Config, Leadership, Members, Observed, Outbox, ProposeError, StepError,
};

/// Nodes by id. A missing one is not reached.
type Nodes = Arc<Mutex<BTreeMap<u64, Arc<Node<u64>>>>>;

#[derive(Clone)]
struct Calls {
    nodes: Nodes,
    from: u64,
}

impl Outbox for Calls {
    fn send(&mut self, to: u64, message: Vec<u8>) {
        let node = self.nodes.lock().get(&to).cloned();
        let _ = node.map(|node| node.step(message));
    }

    fn send_snapshot(&mut self, to: u64, message: Vec<u8>) {
        let node = self.nodes.lock().get(&to).cloned();
        let arrived = node.is_some_and(|node| node.step(message).is_ok());
        if let Some(node) = self.nodes.lock().get(&self.from) {
            node.snapshot_sent(to, arrived);
        }
    }
}

/// What a node heard, and what it has.
#[derive(Clone, Default)]
struct Heard {
    state: Arc<RwLock<Ledger>>,
    restored: Arc<Mutex<Vec<u64>>>,
}

#[derive(Default)]
struct Group {
    nodes: Nodes,
    disks: BTreeMap<u64, FakeDisk>,
    heard: BTreeMap<u64, Heard>,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Each node's outbox holds all nodes: nobody else would end them.
        self.nodes.lock().clear();
    }
}

impl Group {
    fn founded() -> Self {
        let mut group = Self::default();
        for id in 1..=3 {
            group.start(id, vec![1, 2, 3]);
        }
        group
    }

    fn start(&mut self, id: u64, initial_voters: Vec<u64>) {
        let mut config = Config::member("fake".into(), id, initial_voters);
        // Long enough for a busy machine: an election that nobody asked for would fail the tests.
        config.tick = Duration::from_millis(40);
        config.snapshot_after_entries = 50;
        config.keep_entries_max = 10;
        let heard = Heard::default();
        let restored = Arc::clone(&heard.restored);
        let outbox = Calls {
            nodes: Arc::clone(&self.nodes),
            from: id,
        };
        let node = start_on(
            config,
            self.disks.entry(id).or_default().boxed(),
            Arc::clone(&heard.state),
            move |observed| {
                if let Observed::Restored { index } = observed {
                    restored.lock().push(index);
                }
            },
            Box::new(outbox),
        );
        self.nodes.lock().insert(id, Arc::new(node.unwrap()));
        self.heard.insert(id, heard);
    }

    fn node(&self, id: u64) -> Arc<Node<u64>> {
        Arc::clone(&self.nodes.lock()[&id])
    }

    /// Waits until one of the nodes leads, and gives it.
    async fn leader(&self) -> u64 {
        let nodes: Vec<_> = self.nodes.lock().clone().into_iter().collect();
        let leads = nodes.iter().map(|(id, node)| {
            let mut leadership = node.leadership();
            Box::pin(async move {
                let leads = leadership.wait_for(|known| known.leads).await;
                leads.unwrap();
                *id
            })
        });
        let first = futures::future::select_all(leads);
        let (id, ..) = within(first).await;
        id
    }

    /// Commits a content, whoever leads.
    async fn propose(&self, content: &[u8]) -> u64 {
        for _ in 0..50 {
            let leader = self.leader().await;
            let node = self.node(leader);
            match within(node.propose(content.to_vec())).await {
                Ok(committed) => return committed.index,
                Err(ProposeError::NotLeader { .. } | ProposeError::LeadershipLost) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nobody leads for long enough");
    }

    /// Makes a change, whoever leads and however often others are refused.
    async fn change(&self, change: Change) {
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..2000 {
            let leader = self.leader().await;
            match within(self.node(leader).change(change)).await {
                Ok(()) => return,
                Err(
                    ChangeError::Busy
                    | ChangeError::NotCaughtUp { .. }
                    | ChangeError::NotLeader { .. }
                    | ChangeError::NoQuorum(_)
                    | ChangeError::LeadershipLost,
                ) => {}
                Err(error) => panic!("{error}"),
            }
            poll.tick().await;
        }
        panic!("{change:?} was never made");
    }

    /// Waits until a node has applied the contents.
    async fn has(&self, id: u64, contents: &[Vec<u8>]) {
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..2000 {
            if self.heard[&id].state.read().contents() == contents {
                return;
            }
            poll.tick().await;
        }
        let found = self.heard[&id].state.read().contents().len();
        panic!("node {id} has {found} contents of {}", contents.len());
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(Duration::from_secs(20), work);
    limited.await.unwrap()
}

#[tokio::test]
async fn three_founders_elect_a_leader_and_apply_the_same() {
    let group = Group::founded();
    let mut contents = Vec::new();
    for n in 0..20_u8 {
        // Some are cut into chunks.
        let len = if n.is_multiple_of(7) { 40_000 } else { 30 };
        contents.push(vec![n; len]);
        group.propose(&contents[n as usize]).await;
    }
    for id in 1..=3 {
        group.has(id, &contents).await;
        assert_eq!(group.node(id).members(), Members::of(vec![1, 2, 3]));
    }
    let leader = group.leader().await;
    within(group.node(leader).barrier()).await.unwrap();
    let status = group.node(leader).status();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.voter));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = within(group.node(follower).propose(vec![1])).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, ProposeError::NotLeader { .. }),
        "{refused}"
    );
    assert!(within(group.node(follower).barrier()).await.is_err());
    let refused = within(group.node(follower).change(Change::Remove(leader))).await;
    assert!(matches!(refused, Err(ChangeError::NotLeader { .. })));
    assert_eq!(
        group.node(1).step(b"none of raft's".to_vec()),
        Err(StepError::Malformed)
    );
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let group = Group::founded();
    group.propose(b"first").await;
    let leader = group.leader().await;
    let stopping = group.node(leader);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let term = stopping.status().term;
    // Blocks, and the others' threads go on.
    tokio::task::spawn_blocking(move || stopping.shutdown())
        .await
        .unwrap();
    // It ended because another one leads, or asks for votes in the next term: nobody waited for a time-out.
    let node = group.node(leader);
    assert!(node.has_stopped() && !node.leadership().borrow().leads);
    group.nodes.lock().remove(&leader);
    let next = group.leader().await;
    assert!(others.contains(&next));
    assert_eq!(group.node(next).status().term, term + 1);
    group.propose(b"second").await;
    for id in others {
        group
            .has(id, &[b"first".to_vec(), b"second".to_vec()])
            .await;
    }
}

#[tokio::test]
async fn a_group_grows_to_five_and_back_and_a_lost_volume_is_replaced() {
    let mut group = Group::founded();
    let mut contents = Vec::new();
    let mut add = |n: u8| {
        contents.push(vec![n; 20]);
        contents.clone()
    };
    for n in 0..120 {
        let contents = add(n);
        group.propose(contents.last().unwrap()).await;
    }
    for id in [4, 5] {
        group.start(id, Vec::new());
        assert_eq!(group.node(id).members(), Members::default());
        group.change(Change::AddLearner(id)).await;
        group.change(Change::Promote(id)).await;
        // It began with a snapshot: the first entries are in no log.
        assert!(!group.heard[&id].restored.lock().is_empty());
    }
    let contents = add(200);
    group.propose(contents.last().unwrap()).await;
    for id in 1..=5 {
        group.has(id, &contents).await;
        assert_eq!(group.node(id).members(), Members::of(vec![1, 2, 3, 4, 5]));
    }
    // Back to three, and the leader is one of those that leave.
    let leader = group.leader().await;
    let stays = if leader == 4 { 5 } else { 4 };
    group.change(Change::Remove(leader)).await;
    let next = group.leader().await;
    assert_ne!(next, leader, "a removed leader does not lead");
    let leaves = (1..=5).find(|id| *id != leader && *id != stays).unwrap();
    group.change(Change::Remove(leaves)).await;
    // A volume is lost: its id never comes back.
    let mut left = group.node(next).members().voters;
    assert_eq!(left.len(), 3);
    for id in [leader, leaves] {
        group.nodes.lock().remove(&id);
    }
    let lost = *left.iter().find(|id| **id != stays).unwrap();
    group.nodes.lock().remove(&lost);
    group.disks.remove(&lost);
    group.start(6, Vec::new());
    group.change(Change::AddLearner(6)).await;
    group.change(Change::Promote(6)).await;
    group.change(Change::Remove(lost)).await;
    left.retain(|id| *id != lost);
    left.push(6);
    let contents = add(201);
    group.propose(contents.last().unwrap()).await;
    for id in left.clone() {
        group.has(id, &contents).await;
        assert_eq!(group.node(id).members(), Members::of(left.clone()));
    }
}

#[tokio::test]
async fn after_a_restart_the_members_come_from_the_disk() {
    let mut group = Group::founded();
    group.propose(b"one").await;
    group.start(4, Vec::new());
    group.change(Change::AddLearner(4)).await;
    group.change(Change::Promote(4)).await;
    group.has(4, &[b"one".to_vec()]).await;
    group.nodes.lock().clear();
    for id in 1..=4 {
        // What the settings say does not count any more. The old life's thread holds its own clone of the disk.
        let disk = group.disks[&id].after_kill();
        group.disks.insert(id, disk);
        group.start(id, vec![1, 2, 3]);
    }
    group.propose(b"two").await;
    for id in 1..=4 {
        group.has(id, &[b"one".to_vec(), b"two".to_vec()]).await;
        assert_eq!(group.node(id).members(), Members::of(vec![1, 2, 3, 4]));
    }
}

#[tokio::test]
async fn a_change_that_would_leave_no_majority_is_refused() {
    let group = Group::founded();
    group.propose(b"one").await;
    let leader = group.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    assert_eq!(
        within(group.node(leader).change(Change::Promote(9))).await,
        Err(ChangeError::NoLearner(9))
    );
    // What is so already is a success.
    within(group.node(leader).change(Change::Remove(9)))
        .await
        .unwrap();
    within(group.node(leader).change(Change::AddLearner(others[0])))
        .await
        .unwrap();
    let gone = group.nodes.lock().remove(&others[0]);
    drop(gone);
    // Once nothing was heard of it for a while.
    let node = group.node(leader);
    let mut poll = tokio::time::interval(Duration::from_millis(5));
    loop {
        let members = node.status().members;
        let gone = members.iter().find(|member| member.id == others[0]);
        if gone.unwrap().active == Some(false) {
            break;
        }
        poll.tick().await;
    }
    assert_eq!(
        within(node.change(Change::Remove(others[1]))).await,
        Err(ChangeError::NoQuorum(others[1]))
    );
    within(node.change(Change::Remove(others[0])))
        .await
        .unwrap();
}

#[tokio::test]
async fn one_without_a_group_waits_and_does_not_lead() {
    let mut group = Group::default();
    group.start(7, Vec::new());
    let node = group.node(7);
    assert_eq!(*node.leadership().borrow(), Leadership::default());
    let refused = within(node.propose(vec![1])).await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: None });
}

#[tokio::test]
async fn a_follower_that_is_a_little_behind_needs_no_snapshot() {
    let group = Group::founded();
    let mut contents = Vec::new();
    let behind = |leader: u64| (1..=3).find(|id| *id != leader).unwrap();
    while group.propose(b"same").await < 45 {
        contents.push(b"same".to_vec());
    }
    contents.push(b"same".to_vec());
    let follower = behind(group.leader().await);
    group.has(follower, &contents).await;
    let node = group.nodes.lock().remove(&follower).unwrap();
    // The leader takes its snapshot at about 51 and keeps ten entries behind it.
    while group.propose(b"more").await < 53 {
        contents.push(b"more".to_vec());
    }
    contents.push(b"more".to_vec());
    group.nodes.lock().insert(follower, node);
    group.has(follower, &contents).await;
    let restored = group.heard[&follower].restored.lock().clone();
    assert_eq!(restored, [0_u64; 0]);
}
