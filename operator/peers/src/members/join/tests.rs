#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;

use super::super::{FileStore, MemberState};
use super::*;

fn founding() -> Founding<'static> {
    Founding {
        replicas: 3,
        address: &|ordinal| format!("pod-{ordinal}:7001"),
    }
}

#[tokio::test]
async fn replicas_that_start_together_found_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::new(folder.path().join("members.json")));
    let path = |ordinal: u64| folder.path().join(format!("local-{ordinal}"));
    let all = futures::future::join_all((0..3).map(|ordinal| {
        let (store, path) = (Arc::clone(&store), path(ordinal));
        async move { join(&path, &*store, ordinal, &founding()).await.unwrap() }
    }))
    .await;
    for (ordinal, membership) in all.iter().enumerate() {
        assert_eq!(membership.id, ordinal as u64 + 1);
        assert_eq!(membership.initial_voters, [1, 2, 3]);
        assert_eq!(membership.cluster_id, all[0].cluster_id);
    }
    assert_eq!(all[0].cluster_id.len(), 32);

    std::fs::remove_file(path(1)).unwrap();
    let lost = join(&path(1), &*store, 1, &founding()).await.unwrap();
    assert_eq!((lost.id, lost.initial_voters), (4, vec![]));
    assert_eq!(lost.document.members[&1].state, MemberState::Joining);
}

/// Fails from the `fails_from`th call on; a write that fails arrives all the same.
struct Broken {
    store: FileStore,
    calls: AtomicUsize,
    fails_from: usize,
}

impl Broken {
    fn outcome<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call < self.fails_from {
            return result;
        }
        Err(StoreError::File {
            action: "read",
            path: "broken".into(),
            source: std::io::Error::other("broken"),
        })
    }
}

impl MembersStore for Broken {
    fn get(&self) -> BoxFuture<'_, Result<Option<Versioned>, StoreError>> {
        Box::pin(async { self.outcome(self.store.get().await) })
    }

    fn put<'a>(
        &'a self,
        document: &'a Document,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.outcome(self.store.put(document, version).await) })
    }
}

#[tokio::test]
async fn a_claim_that_is_broken_off_anywhere_is_the_same_one_later() {
    for fails_from in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("members.json"));
        let broken = Broken {
            store: store.clone(),
            calls: AtomicUsize::new(0),
            fails_from,
        };
        let path = folder.path().join("local");
        join(&path, &broken, 0, &founding()).await.unwrap_err();
        let joined = join(&path, &store, 0, &founding()).await.unwrap();
        assert_eq!((joined.id, joined.document.next_id), (1, 4), "{fails_from}");
    }
}

#[tokio::test]
async fn a_replica_with_a_disk_starts_without_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path().join("members.json"));
    let path = folder.path().join("local");
    let joined = join(&path, &store, 0, &founding()).await.unwrap();
    let broken = Broken {
        store,
        calls: AtomicUsize::new(0),
        fails_from: 0,
    };
    let again = join(&path, &broken, 0, &founding()).await.unwrap();
    assert_eq!(again, joined);
    assert_eq!(broken.calls.load(Ordering::Relaxed), 0);
}
