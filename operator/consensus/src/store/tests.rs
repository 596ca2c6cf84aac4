#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use raft::eraftpb::Entry;

use super::fake::FakeDisk;
use super::{Recovered, SavedSnapshot, Store, StoreError, Vote, header};
use crate::members::Members;

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry {
        index,
        term,
        data: data.to_vec(),
        ..Entry::default()
    }
}

/// Appends and syncs one entry of term 1 for each index, each in a frame of its own.
fn fill(store: &mut Store, indices: std::ops::RangeInclusive<u64>, bytes: usize) {
    for index in indices {
        let data = vec![index as u8; bytes];
        store.append(&[entry(index, 1, &data)], None).unwrap();
        store.sync().unwrap();
    }
}

fn snapshot(index: u64) -> SavedSnapshot {
    SavedSnapshot {
        index,
        term: 1,
        members: Members {
            voters: vec![1, 2, 3],
            learners: vec![4],
        },
        state: vec![index as u8; 1500],
    }
}

fn open(disk: &FakeDisk) -> Result<(Store, Recovered), StoreError> {
    Store::open(disk.boxed(), 1)
}

/// Indices of the entries that the snapshot does not cover.
fn indices(recovered: &Recovered) -> Vec<u64> {
    let snapshot = recovered.snapshot.as_ref();
    let covered = snapshot.map_or(0, |snapshot| snapshot.index);
    let all = recovered.entries.iter().map(|entry| entry.index);
    all.filter(|index| *index > covered).collect()
}

fn only_segment(disk: &FakeDisk) -> (String, Vec<u8>) {
    let files = disk.files();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

/// Ends of the frames of the only segment, found by watching which byte is the last that is not zero.
fn filled_with_ends(count: u64) -> (String, Vec<u8>, Vec<usize>) {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    let end = |disk: &FakeDisk| {
        let (_, bytes) = only_segment(disk);
        bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
    };
    let mut ends = vec![end(&disk)];
    for index in 1..=count {
        // The data ends in 0xff, so that no frame ends in a zero.
        let data = [&[index as u8; 40][..], &[0xff]].concat();
        let entry = entry(index, 1, &data);
        let vote = Vote {
            term: 1,
            vote: index % 3,
        };
        store.append(&[entry], Some(vote)).unwrap();
        store.sync().unwrap();
        ends.push(end(&disk));
    }
    let (name, bytes) = only_segment(&disk);
    (name, bytes, ends)
}

#[test]
fn a_log_cut_anywhere_gives_the_whole_frames_before_the_cut() {
    let (name, bytes, ends) = filled_with_ends(8);
    for cut in 0..=*ends.last().unwrap() {
        let mut zeroed = bytes[..cut].to_vec();
        zeroed.resize(bytes.len(), 0);
        for content in [bytes[..cut].to_vec(), zeroed] {
            // The header was durable before the file had its name. (It may end in zeros.)
            let header = content.get(..header::HEADER) == bytes.get(..header::HEADER);
            let disk = FakeDisk::with(&[(name.clone(), content)]);
            if !header {
                let refused = open(&disk).err();
                assert!(matches!(refused, Some(StoreError::Damaged { .. })), "{cut}");
                continue;
            }
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            let expected: Vec<u64> = (1..whole.max(1)).collect();
            let (mut store, recovered) = open(&disk).unwrap();
            assert_eq!(indices(&recovered), expected, "{cut}");
            // The log goes on behind the cut.
            let next = expected.len() as u64 + 1;
            fill(&mut store, next..=next + 1, 300);
            let (_, again) = open(&disk.after_power_loss(cut as u64)).unwrap();
            assert_eq!(indices(&again), (1..=next + 1).collect::<Vec<_>>(), "{cut}");
        }
    }
}

#[test]
fn a_bit_flipped_anywhere_before_the_last_frame_refuses() {
    let (name, bytes, ends) = filled_with_ends(8);
    let last_start = ends[ends.len() - 2];
    for at in 0..*ends.last().unwrap() {
        let mut content = bytes.clone();
        content[at] ^= 1 << (at % 8);
        let disk = FakeDisk::with(&[(name.clone(), content)]);
        match open(&disk) {
            // Indistinguishable from a torn last frame.
            Ok((_, recovered)) => {
                assert!(at >= last_start, "{at}");
                assert_eq!(indices(&recovered), (1..=7).collect::<Vec<_>>());
            }
            Err(StoreError::Damaged { file, offset, .. }) => {
                assert_eq!(file, name);
                assert!(offset <= at as u64, "{at}");
            }
            Err(StoreError::Format { .. }) => assert!((16..20).contains(&at), "{at}"),
            Err(other) => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn a_last_frame_of_which_any_sectors_are_missing_is_cut_off() {
    for seed in 0..300 {
        let disk = FakeDisk::default();
        let (mut store, _) = open(&disk).unwrap();
        fill(&mut store, 1..=2, 700);
        // One frame of several entries and many sectors, not synced.
        let group: Vec<Entry> = (3..=9).map(|index| entry(index, 1, &[7; 900])).collect();
        store.append(&group, None).unwrap();
        let (_, recovered) = open(&disk.after_power_loss(seed)).unwrap();
        let found = indices(&recovered).len();
        assert!(found == 2 || found == 9, "seed {seed}: {found}");
    }
}

#[test]
fn damage_in_an_older_segment_refuses_and_says_where() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=40, 4000);
    let files = disk.files();
    assert!(files.len() >= 3);
    for broken in 0..files.len() - 1 {
        let end = files[broken].1.iter().rposition(|byte| *byte != 0).unwrap();
        for at in [0, 30, 100, end / 2, end] {
            let mut files = files.clone();
            files[broken].1[at] ^= 0x10;
            let error = open(&FakeDisk::with(&files)).err().unwrap();
            assert!(matches!(&error, StoreError::Damaged { file, .. } if *file == files[broken].0));
            let text = error.to_string();
            assert!(text.contains("move it aside"), "{text}");
        }
    }
    // A segment that is missing altogether.
    let mut files = files;
    files.remove(1);
    let error = open(&FakeDisk::with(&files)).err();
    assert!(matches!(error, Some(StoreError::Damaged { .. })));
}

#[test]
fn a_new_leader_replaces_the_suffix() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=9, 10);
    store
        .append(&[entry(5, 2, b"new")], Some(Vote { term: 2, vote: 3 }))
        .unwrap();
    store.sync().unwrap();
    let (_, recovered) = open(&disk.after_power_loss(1)).unwrap();
    assert_eq!(indices(&recovered), [1, 2, 3, 4, 5]);
    assert_eq!(recovered.entries[4].term, 2);
    assert_eq!(recovered.vote, Vote { term: 2, vote: 3 });
}

#[test]
fn snapshots_free_segments_and_votes_outlive_them() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    let vote = Vote { term: 9, vote: 2 };
    store.append(&[], Some(vote)).unwrap();
    for round in 1..=6 {
        fill(&mut store, round * 20 - 19..=round * 20, 4000);
        store.save_snapshot(&snapshot(round * 20)).unwrap();
    }
    let snapshots = disk
        .files()
        .iter()
        .filter(|(n, _)| n.starts_with("snap"))
        .count();
    assert_eq!(snapshots, 2);
    assert!(store.log_bytes() < 6 * 64 * 1024);
    let (_, recovered) = open(&disk.after_power_loss(1)).unwrap();
    assert_eq!(recovered.snapshot, Some(snapshot(120)));
    assert_eq!(recovered.vote, vote);
    assert!(indices(&recovered).is_empty());
    // What the older snapshot needs is there anyway, so it is kept for followers that are a little behind.
    assert!(recovered.entries[0].index <= 101);
    assert_eq!(recovered.entries.last().unwrap().index, 120);
}

#[test]
fn members_and_what_is_committed_outlive_segments() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=3, 10);
    let members = Members {
        voters: vec![1, 2, 7],
        learners: vec![9],
    };
    store.append_members(3, &members).unwrap();
    store.committed(3);
    fill(&mut store, 4..=4, 10);
    let (_, recovered) = open(&disk.after_power_loss(1)).unwrap();
    assert_eq!(recovered.commit, 3);
    for round in 1..=6 {
        fill(&mut store, round * 20 - 15..=round * 20 + 4, 4000);
        store.save_snapshot(&snapshot(round * 20)).unwrap();
    }
    let names = disk.files();
    assert!(
        names
            .iter()
            .all(|(name, _)| *name != "log-0000000000000001")
    );
    let (_, recovered) = open(&disk.after_power_loss(1)).unwrap();
    assert_eq!(recovered.members, Some((3, members)));
    assert_eq!(recovered.commit, 120);
    // Those of a later snapshot are newer.
    let newest = recovered.newest_members();
    assert_eq!(newest, Some((120, snapshot(120).members)));
}

#[test]
fn a_commit_index_in_front_of_torn_entries_does_not_pass_the_log() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=2, 10);
    store.committed(9);
    store.append(&[], Some(Vote { term: 2, vote: 2 })).unwrap();
    store.sync().unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.commit, 2);
}

#[test]
fn a_folder_of_format_1_is_read_and_goes_on_in_format_2() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=5, 10);
    let identity = store.wal.identity();
    let mut files = disk.in_format_1().files();
    // Term, voters and the state, without learners.
    let mut covered = 1_u64.to_le_bytes().to_vec();
    covered.extend_from_slice(&1_u32.to_le_bytes());
    covered.extend_from_slice(&1_u64.to_le_bytes());
    covered.extend_from_slice(b"state");
    let checked = [
        &identity.log_id.to_le_bytes()[..],
        &3_u64.to_le_bytes(),
        &covered,
    ];
    let mut bytes = header::encode(header::SNAPSHOT, identity, 3);
    header::set_format_1(&mut bytes);
    bytes.extend_from_slice(&crc32fast::hash(&checked.concat()).to_le_bytes());
    bytes.extend_from_slice(&covered);
    files.push(("snapshot-0000000000000003".to_owned(), bytes));
    let disk = FakeDisk::with(&files);
    let (mut store, recovered) = open(&disk).unwrap();
    let snapshot = recovered.snapshot.as_ref().unwrap();
    assert_eq!(snapshot.members, Members::of(vec![1]));
    assert_eq!(snapshot.state, b"state");
    assert_eq!(indices(&recovered), [4, 5]);
    assert_eq!(recovered.members, None);
    // What only format 2 has goes into a file that says so.
    store.append_members(5, &Members::of(vec![1])).unwrap();
    fill(&mut store, 6..=6, 10);
    let formats: Vec<u8> = disk.files().iter().map(|(_, bytes)| bytes[16]).collect();
    assert_eq!(formats, [1, 2, 1]);
    let (_, recovered) = open(&disk.after_power_loss(1)).unwrap();
    assert_eq!(indices(&recovered), [4, 5, 6]);
    assert_eq!(recovered.members, Some((5, Members::of(vec![1]))));
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_one_before_and_the_log() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    for round in 1..=3 {
        fill(&mut store, round * 20 - 19..=round * 20, 4000);
        store.save_snapshot(&snapshot(round * 20)).unwrap();
    }
    fill(&mut store, 61..=62, 10);
    let files = disk.files();
    let newest = files
        .iter()
        .rposition(|(n, _)| n.starts_with("snap"))
        .unwrap();
    for at in [3, 50, 60, 1000] {
        let mut files = files.clone();
        files[newest].1[at] ^= 1;
        let (_, recovered) = open(&FakeDisk::with(&files)).unwrap();
        assert_eq!(recovered.snapshot, Some(snapshot(40)), "{at}");
        assert_eq!(indices(&recovered), (41..=62).collect::<Vec<_>>());
        // Both: nothing fits the log any more.
        files[newest - 1].1[at] ^= 1;
        let error = open(&FakeDisk::with(&files)).err().unwrap();
        assert!(matches!(error, StoreError::NoSnapshot { .. }), "{error}");
        assert!(error.to_string().contains("is damaged"), "{error}");
    }
    // The log without its end, or without anything.
    let without_log: Vec<_> = files
        .iter()
        .filter(|(n, _)| n.starts_with("snap"))
        .cloned()
        .collect();
    let error = open(&FakeDisk::with(&without_log)).err();
    assert!(matches!(error, Some(StoreError::NoSnapshot { .. })));
}

#[test]
fn a_crash_at_any_step_of_a_snapshot_loses_nothing() {
    let filled = || {
        let disk = FakeDisk::default();
        let (mut store, _) = open(&disk).unwrap();
        fill(&mut store, 1..=30, 4000);
        store.save_snapshot(&snapshot(15)).unwrap();
        store.save_snapshot(&snapshot(20)).unwrap();
        (disk, store)
    };
    for step in 1.. {
        let (disk, mut store) = filled();
        disk.crash_at(Some(disk.steps() + step));
        let saved = store.save_snapshot(&snapshot(30));
        if saved.is_ok() {
            assert!(step > 6, "the crash never came");
            break;
        }
        for seed in 0..20 {
            let (_, recovered) = open(&disk.after_power_loss(seed)).unwrap();
            let covered = recovered.snapshot.as_ref().unwrap().index;
            assert!(covered == 20 || covered == 30, "step {step}, seed {seed}");
            assert_eq!(indices(&recovered), (covered + 1..=30).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_crash_at_any_step_of_an_install_keeps_the_old_log_or_has_the_snapshot() {
    for step in 1.. {
        let disk = FakeDisk::default();
        let (mut store, _) = open(&disk).unwrap();
        fill(&mut store, 1..=10, 100);
        disk.crash_at(Some(disk.steps() + step));
        if store.install_snapshot(&snapshot(50)).is_ok() {
            disk.crash_at(None);
            fill(&mut store, 51..=52, 10);
            let (_, recovered) = open(&disk.after_power_loss(step)).unwrap();
            assert_eq!(recovered.snapshot, Some(snapshot(50)));
            assert_eq!(indices(&recovered), [51, 52]);
            assert!(step > 6, "the crash never came");
            break;
        }
        for seed in 0..20 {
            let disk = disk.after_power_loss(seed);
            let (mut store, recovered) = open(&disk).unwrap();
            let next = match &recovered.snapshot {
                Some(found) => {
                    assert_eq!(found, &snapshot(50));
                    assert!(recovered.entries.is_empty());
                    51
                }
                None => {
                    assert_eq!(indices(&recovered), (1..=10).collect::<Vec<_>>());
                    11
                }
            };
            // Either way the log goes on.
            fill(&mut store, next..=next + 1, 10);
            let (_, recovered) = open(&disk.after_power_loss(seed)).unwrap();
            assert_eq!(recovered.entries.last().unwrap().index, next + 1);
        }
    }
}

#[test]
fn a_full_disk_refuses_reservations_and_recovers() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    disk.set_full(true);
    // What is reserved counts, before anything of it is written.
    let mut reserved = 0;
    let error = loop {
        match store.reserve(5000) {
            Ok(()) => reserved += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("make log segment"), "{error}");
    assert!((10..13).contains(&reserved), "{reserved}");
    fill(&mut store, 1..=reserved, 4800);
    // Votes still find room, also in the next process.
    let vote = Vote { term: 7, vote: 1 };
    store.append(&[], Some(vote)).unwrap();
    store.sync().unwrap();
    let disk = disk.after_power_loss(1);
    disk.set_full(true);
    let (mut store, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.vote, vote);
    assert_eq!(recovered.entries.len() as u64, reserved);
    assert!(store.reserve(5000).is_err());
    disk.set_full(false);
    store.reserve(5000).unwrap();
    fill(&mut store, reserved + 1..=reserved + 1, 4800);
}

#[test]
fn a_failed_write_or_sync_closes_the_log() {
    for sync in [false, true] {
        let disk = FakeDisk::default();
        let (mut store, _) = open(&disk).unwrap();
        fill(&mut store, 1..=2, 10);
        disk.set_failing_sync(sync);
        disk.set_failing_write(!sync);
        let appended = store.append(&[entry(3, 1, b"x")], None);
        assert_eq!(appended.is_ok(), sync);
        assert!(store.sync().is_err());
        disk.set_failing_sync(false);
        disk.set_failing_write(false);
        let syncs = disk.syncs();
        let closed = store.append(&[entry(4, 1, b"x")], None);
        assert!(matches!(closed, Err(StoreError::Failed)));
        assert!(matches!(store.sync(), Err(StoreError::Failed)));
        assert_eq!(disk.syncs(), syncs, "a failed sync is never tried again");
    }
}

#[test]
fn what_a_restarted_process_has_seen_survives_the_loss_of_power() {
    for (failing, seed) in [(false, 1), (true, 1), (false, 2), (true, 2), (true, 3)] {
        let disk = FakeDisk::default();
        let (mut store, _) = open(&disk).unwrap();
        fill(&mut store, 1..=2, 10);
        store.append(&[entry(3, 1, &[3; 3000])], None).unwrap();
        if failing {
            // The pages are marked clean although they never reached the disk.
            disk.set_failing_sync(true);
            assert!(store.sync().is_err());
        }
        let disk = disk.after_kill();
        let (_, seen) = open(&disk).unwrap();
        assert_eq!(indices(&seen), [1, 2, 3]);
        let (_, kept) = open(&disk.after_power_loss(seed)).unwrap();
        assert_eq!(indices(&kept), [1, 2, 3], "{failing} {seed}");
    }
}

#[test]
fn files_of_another_node_or_log_are_refused() {
    let disk = FakeDisk::default();
    let (mut store, _) = open(&disk).unwrap();
    fill(&mut store, 1..=3, 10);
    let error = Store::open(disk.boxed(), 2).err().unwrap();
    assert!(
        matches!(
            error,
            StoreError::Foreign {
                found: 1,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
    store.save_snapshot(&snapshot(2)).unwrap();
    // A snapshot of another log beside ours.
    let other = FakeDisk::default();
    let (mut store, _) = open(&other).unwrap();
    fill(&mut store, 1..=3, 10);
    store.save_snapshot(&snapshot(3)).unwrap();
    let mut files = disk.files();
    files.extend(
        other
            .files()
            .into_iter()
            .filter(|(n, _)| n.starts_with("snap")),
    );
    let error = open(&FakeDisk::with(&files)).err().unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft");
    let held = super::disk::RealDisk::open(&path).unwrap();
    let error = super::disk::RealDisk::open(&path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(held);
    super::disk::RealDisk::open(&path).unwrap();
}
