#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use parking_lot::Mutex;

use super::super::{FileStore, Founding, MemberState, join};
use super::*;

/// A raft that does what it is told.
struct Raft {
    members: Mutex<Vec<MemberStatus>>,
    leads: bool,
}

impl Raft {
    fn new(leads: bool, voters: &[u64]) -> Arc<Self> {
        let members = voters.iter().map(|id| member(*id, true)).collect();
        Arc::new(Self {
            members: Mutex::new(members),
            leads,
        })
    }

    fn voters(&self) -> Vec<u64> {
        let members = self.members.lock();
        let voters = members.iter().filter(|member| member.voter);
        voters.map(|member| member.id).collect()
    }
}

fn member(id: u64, voter: bool) -> MemberStatus {
    MemberStatus {
        id,
        voter,
        matched: Some(1),
        active: Some(true),
    }
}

impl Group for Raft {
    fn leads(&self) -> bool {
        self.leads
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.members.lock().clone()
    }

    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
        let mut members = self.members.lock();
        match change {
            Change::AddLearner(id) => members.push(member(id, false)),
            Change::Promote(id) => {
                let found = members.iter_mut().find(|member| member.id == id);
                found.unwrap().voter = true;
            }
            Change::Remove(id) => members.retain(|member| member.id != id),
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Scene {
    folder: tempfile::TempDir,
    store: FileStore,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("members.json"));
        Self { folder, store }
    }

    fn local(&self, ordinal: u64) -> PathBuf {
        self.folder.path().join(format!("local-{ordinal}"))
    }

    async fn join(&self, ordinal: u64) -> Membership {
        let founding = Founding {
            replicas: 3,
            address: &|ordinal| format!("pod-{ordinal}:7001"),
        };
        join(&self.local(ordinal), &self.store, ordinal, &founding)
            .await
            .unwrap()
    }

    fn keeping(&self, ordinal: u64, membership: Membership, raft: &Arc<Raft>) -> Keeping {
        Keeping {
            ordinal,
            membership,
            local: self.local(ordinal),
            store: Arc::new(self.store.clone()),
            directory: Directory::new(std::collections::BTreeMap::new()),
            group: Arc::clone(raft) as Arc<dyn Group>,
            replicas: watch::channel(3).1,
            every: Duration::from_millis(10),
        }
    }

    async fn document(&self) -> Document {
        self.store.get().await.unwrap().unwrap().document
    }
}

#[tokio::test]
async fn a_leader_takes_in_a_replica_that_has_lost_its_disk() {
    let scene = Scene::new();
    let first = scene.join(0).await;
    for ordinal in 1..3 {
        scene.join(ordinal).await;
    }
    let raft = Raft::new(true, &[1, 2, 3]);
    let keeping = scene.keeping(0, first, &raft);
    let directory = keeping.directory.clone();
    let task = api_telemetry::task::spawn("keep", keep(keeping));

    std::fs::remove_file(scene.local(2)).unwrap();
    assert_eq!(scene.join(2).await.id, 4);
    let began = Instant::now();
    while raft.voters() != [1, 2, 4]
        || scene.document().await.members[&2].state != MemberState::Member
        || directory.peer(3).is_some()
    {
        assert!(!task.is_finished() && began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(directory.peer(4).unwrap().address, "pod-2:7001");
    let local = Local::load(&scene.local(0)).unwrap().unwrap();
    assert!(local.document.unwrap().ordinal_of(4).is_some());
}

#[tokio::test]
async fn a_replica_whose_id_was_given_up_is_told() {
    let scene = Scene::new();
    let first = scene.join(0).await;
    let raft = Raft::new(false, &[1, 2, 3]);
    let keeping = scene.keeping(0, first, &raft);
    std::fs::remove_file(scene.local(0)).unwrap();
    scene.join(0).await;
    keep(keeping).await;
}

#[tokio::test]
async fn a_table_that_is_removed_is_written_anew_with_ids_that_nobody_has() {
    let scene = Scene::new();
    let first = scene.join(0).await;
    let document = scene.document().await;
    let raft = Raft::new(true, &[1, 2, 3]);
    let keeping = scene.keeping(0, first, &raft);
    std::fs::remove_file(scene.folder.path().join("members.json")).unwrap();
    let _task = api_telemetry::task::spawn("keep", keep(keeping));
    let began = Instant::now();
    while scene.store.get().await.unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let anew = scene.document().await;
    assert_eq!(anew.next_id, document.next_id + SKIPPED);
    assert_eq!(anew.members, document.members);
    assert_eq!(anew.cluster_id, document.cluster_id);
}

#[tokio::test]
async fn a_cluster_whose_disks_are_all_lost_is_founded_anew() {
    let scene = Scene::new();
    let mut old = Vec::new();
    for ordinal in 0..3 {
        scene.join(ordinal).await;
        std::fs::remove_file(scene.local(ordinal)).unwrap();
    }
    let raft = Raft::new(false, &[]);
    for ordinal in 0..3 {
        let joined = scene.join(ordinal).await;
        assert_eq!(joined.initial_voters, [0; 0]);
        old.push(joined);
    }
    let all = old.iter().zip(0..);
    let all = all.map(|(joined, ordinal)| keep(scene.keeping(ordinal, joined.clone(), &raft)));
    futures::future::join_all(all).await;
    for ordinal in 0..3 {
        std::fs::remove_file(scene.local(ordinal)).unwrap();
        let anew = scene.join(ordinal).await;
        assert_ne!(anew.cluster_id, old[0].cluster_id);
        assert_eq!(anew.initial_voters, [7, 8, 9]);
        assert_eq!(anew.id, 7 + ordinal);
    }
}

#[tokio::test]
async fn another_address_is_told() {
    let scene = Scene::new();
    let mut first = scene.join(0).await;
    first.address = "elsewhere:7001".into();
    let raft = Raft::new(false, &[1, 2, 3]);
    let keeping = scene.keeping(0, first, &raft);
    let directory = keeping.directory.clone();
    let _task = api_telemetry::task::spawn("keep", keep(keeping));
    let began = Instant::now();
    while directory
        .peer(1)
        .is_none_or(|peer| peer.address != "elsewhere:7001")
    {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(scene.document().await.members[&0].address, "elsewhere:7001");
}
