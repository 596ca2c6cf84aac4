#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api_telemetry::metrics::{HistogramValue, Labels, Sink};
use parking_lot::Mutex;
use proptest::prelude::*;
use redb::StorageBackend;

use super::*;

fn ops(ops: &[(u8, Option<u8>)]) -> Vec<Op> {
    let ops = ops.iter();
    ops.map(|(k, v)| Op {
        key: vec![*k],
        value: v.map(|v| vec![v]),
    })
    .collect()
}

/// What a shard would hold, so that its changes name true bases and hashes.
#[derive(Default)]
struct Model {
    epoch: u64,
    facts: (u64, api_snapshot::EntrySet),
    gateways: std::collections::BTreeMap<String, (u64, api_snapshot::EntrySet)>,
}

impl Model {
    fn facts(&mut self, revision: u64, changed: &[(u8, Option<u8>)]) -> Change {
        let ops = ops(changed);
        let base = std::mem::replace(&mut self.facts.0, revision);
        for op in &ops {
            self.facts.1.apply(op);
        }
        Change::Facts {
            base: Some(Revision(base)),
            revision: Revision(revision),
            hash: self.facts.1.hash(),
            ops,
        }
    }

    fn step(&mut self, name: &str, revision: u64, changed: &[(u8, Option<u8>)]) -> Change {
        let (at, entries) = self.gateways.entry(name.into()).or_default();
        let ops = ops(changed);
        for op in &ops {
            entries.apply(op);
        }
        let base = std::mem::replace(at, revision);
        Change::Gateway {
            gateway: GatewayKey::new("t", name),
            base: Some(Revision(base)),
            revision: Revision(revision),
            hash: entries.hash(),
            removed: false,
            ops,
        }
    }

    fn whole(&mut self, name: &str, revision: u64, all: &[(u8, Option<u8>)]) -> Change {
        self.gateways.remove(name);
        match self.step(name, revision, all) {
            Change::Gateway {
                gateway,
                revision,
                hash,
                removed,
                ops,
                ..
            } => Change::Gateway {
                gateway,
                base: None,
                revision,
                hash,
                removed,
                ops,
            },
            other => other,
        }
    }

    fn drop(&mut self, name: &str) -> Change {
        self.gateways.remove(name);
        Change::dropped(GatewayKey::new("t", name))
    }

    fn begin(&mut self, epoch: u64) -> Change {
        self.epoch = epoch;
        for (revision, _) in self.gateways.values_mut() {
            *revision = 0;
        }
        Change::Epoch(Epoch(epoch))
    }

    #[track_caller]
    fn assert_stored(&self, stored: &Stored) {
        assert_eq!(stored.epoch.0, self.epoch);
        assert_eq!(stored.facts_revision.0, self.facts.0);
        assert_eq!(stored.facts_hash(), self.facts.1.hash());
        let found: BTreeSet<_> = stored
            .gateways
            .iter()
            .map(|g| {
                (
                    g.gateway.name.clone(),
                    g.revision.0,
                    hash_of(&g.ops).to_bytes(),
                )
            })
            .collect();
        let expected: BTreeSet<_> = self
            .gateways
            .iter()
            .map(|(name, (revision, entries))| (name.clone(), *revision, entries.hash().to_bytes()))
            .collect();
        assert!(
            found == expected,
            "{:?}",
            found.symmetric_difference(&expected)
        );
    }
}

/// A file on a disk that fails, or hangs, on command.
#[derive(Debug)]
struct Faulty {
    file: File,
    full: Arc<AtomicBool>,
    hangs: Arc<Mutex<()>>,
}

impl Faulty {
    fn check(&self) -> Result<(), io::Error> {
        drop(self.hangs.lock());
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check()?;
        self.file.write_all_at(data, offset)
    }
}

#[derive(Default)]
struct FaultyDisk {
    full: Arc<AtomicBool>,
    hangs: Arc<Mutex<()>>,
}

impl FaultyDisk {
    fn open(&self, path: &Path) -> (Disk, Stored) {
        let (full, hangs) = (Arc::clone(&self.full), Arc::clone(&self.hangs));
        let opener = move |path: &Path| {
            if full.load(Ordering::SeqCst) {
                return Err(io::Error::from(io::ErrorKind::StorageFull).into());
            }
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)?;
            Database::builder().create_with_backend(Faulty {
                file,
                full: Arc::clone(&full),
                hangs: Arc::clone(&hangs),
            })
        };
        Disk::open_by(path, Box::new(opener)).unwrap()
    }
}

#[derive(Default)]
struct Gauges(std::collections::BTreeMap<&'static str, f64>);

impl Sink for Gauges {
    fn counter(&mut self, desc: &'static api_telemetry::metrics::Desc, _: Labels<'_>, value: u64) {
        self.0.insert(desc.name, value as f64);
    }

    fn gauge(&mut self, desc: &'static api_telemetry::metrics::Desc, _: Labels<'_>, value: f64) {
        self.0.insert(desc.name, value);
    }

    fn histogram(
        &mut self,
        _: &'static api_telemetry::metrics::Desc,
        _: Labels<'_>,
        _: &HistogramValue,
    ) {
    }
}

fn metric(writer: &Writer, desc: &api_telemetry::metrics::Desc) -> f64 {
    let mut gauges = Gauges::default();
    writer.metrics().collect(&mut gauges);
    gauges.0[desc.name]
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_was_activated_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let (disk, stored) = Disk::open(&path).unwrap();
    assert!(stored.gateways.is_empty());
    let writer = disk.writer().unwrap();
    let mut model = Model::default();
    writer.write(model.begin(7));
    writer.write(model.facts(1, &[(1, Some(1)), (2, Some(2))]));
    writer.write(model.step("a", 1, &[(1, Some(1)), (2, Some(2))]));
    writer.write(model.step("b", 2, &[(1, Some(9))]));
    writer.write(model.step("a", 3, &[(1, None), (3, Some(3))]));
    writer.write(model.whole("b", 4, &[(5, Some(5))]));
    writer.write(model.facts(5, &[(1, None)]));
    drop(writer);
    let (disk, stored) = Disk::open(&path).unwrap();
    model.assert_stored(&stored);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Of another history, what is stored has no number that says anything.
    let writer = disk.writer().unwrap();
    writer.write(model.begin(8));
    writer.write(model.step("a", 2, &[(4, Some(4))]));
    drop(writer);
    model.assert_stored(&Disk::open(&path).unwrap().1);
}

#[test]
fn a_damaged_file_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let (_, stored) = Disk::open(&path).unwrap();
    assert!(stored.gateways.is_empty());
    assert!(folder.path().join("table.redb.corrupt-1").exists());
}

#[test]
fn one_flipped_byte_anywhere_is_found_or_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let mut model = Model::default();
    let writer = Disk::open(&path).unwrap().0.writer().unwrap();
    for n in 0..40 {
        let all: Vec<_> = (0..40).map(|k| (k, Some(n))).collect();
        writer.write(model.step(&format!("g{n}"), 1, &all));
    }
    writer.write(model.facts(1, &(0..100).map(|k| (k, Some(k))).collect::<Vec<_>>()));
    drop(writer);
    let good = fs::read(&path).unwrap();
    // Everything that is not zero, thinned out: a large file is mostly empty.
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let thin = used.len().div_ceil(200);
    let empty = (0..good.len()).step_by(good.len() / 40);
    let (mut damaged, mut unharmed) = (0, 0);
    for at in used.into_iter().step_by(thin).chain(0..64).chain(empty) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.redb");
        let mut bytes = good.clone();
        bytes[at] ^= 0x15;
        fs::write(&path, bytes).unwrap();
        let (_, stored) = Disk::open(&path).unwrap();
        if folder.path().join("table.redb.corrupt-1").exists() {
            damaged += 1;
            assert!(stored.gateways.is_empty());
        } else {
            unharmed += 1;
            model.assert_stored(&stored);
        }
    }
    assert!(damaged > 50 && unharmed > 10, "{damaged} {unharmed}");
}

#[test]
fn facts_that_do_not_have_their_hash_are_not_served_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let (disk, _) = Disk::open(&path).unwrap();
    let write = disk.database.as_ref().unwrap().begin_write().unwrap();
    let facts = redb::TableDefinition::<&[u8], &[u8]>::new("facts");
    let hashes = redb::TableDefinition::<&str, &[u8]>::new("hashes");
    let mut table = write.open_table(facts).unwrap();
    table.insert(&b"k"[..], &b"v"[..]).unwrap();
    drop(table);
    let mut table = write.open_table(hashes).unwrap();
    table.insert("facts", &[1; 32][..]).unwrap();
    drop(table);
    write.commit().unwrap();
    drop(disk);
    let (_, stored) = Disk::open(&path).unwrap();
    assert!(stored.facts.is_empty());
    assert!(folder.path().join("table.redb.corrupt-1").exists());
}

#[test]
fn after_a_full_disk_has_room_again_everything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let faults = FaultyDisk::default();
    let mut model = Model::default();
    let (disk, _) = faults.open(&path);
    let writer = disk.writer_that_retries(Duration::from_millis(1)).unwrap();
    writer.write(model.facts(1, &[(1, Some(1))]));
    writer.write(model.step("a", 1, &[(1, Some(1))]));
    wait_for("the first write", || {
        metric(&writer, api_telemetry::names::DISK_BEHIND) == 0.0
    });
    faults.full.store(true, Ordering::SeqCst);
    writer.write(model.step("a", 2, &[(2, Some(2))]));
    wait_for("some failures", || {
        metric(&writer, api_telemetry::names::DISK_FAILURES) >= 3.0
    });
    for revision in 3..100 {
        writer.write(model.step("a", revision, &[(3, Some(revision as u8))]));
    }
    writer.write(model.step("b", 100, &[(1, Some(1))]));
    writer.write(model.facts(101, &[(2, Some(2))]));
    assert!(metric(&writer, api_telemetry::names::DISK_BEHIND) > 0.0);
    faults.full.store(false, Ordering::SeqCst);
    wait_for("all is written", || {
        metric(&writer, api_telemetry::names::DISK_BEHIND) == 0.0
    });
    assert_eq!(writer.take_lost(), (BTreeSet::new(), false));
    drop(writer);
    model.assert_stored(&Disk::open(&path).unwrap().1);
    assert!(!folder.path().join("table.redb.corrupt-1").exists());
}

#[test]
fn a_file_that_cannot_be_opened_at_the_start_is_opened_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let faults = FaultyDisk::default();
    let mut model = Model::default();
    let writer = faults.open(&path).0.writer().unwrap();
    writer.write(model.step("a", 1, &[(1, Some(1))]));
    drop(writer);
    faults.full.store(true, Ordering::SeqCst);
    let (disk, stored) = faults.open(&path);
    assert!(stored.gateways.is_empty());
    let writer = disk.writer_that_retries(Duration::from_millis(1)).unwrap();
    writer.write(model.whole("a", 2, &[(2, Some(2))]));
    wait_for("some failures", || {
        metric(&writer, api_telemetry::names::DISK_FAILURES) >= 3.0
    });
    faults.full.store(false, Ordering::SeqCst);
    wait_for("all is asked for", || writer.take_lost().1);
    drop(writer);
    model.assert_stored(&Disk::open(&path).unwrap().1);
    assert!(!folder.path().join("table.redb.corrupt-1").exists());
}

#[test]
fn nobody_waits_for_a_disk_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let faults = FaultyDisk::default();
    let mut model = Model::default();
    let (disk, _) = faults.open(&path);
    let writer = disk.writer().unwrap();
    let hangs = faults.hangs.lock();
    for revision in 1..20_000 {
        writer.write(model.step("a", revision, &[((revision % 50) as u8, Some(1))]));
    }
    // What waits is bounded by what there is, not by what has happened.
    assert!(metric(&writer, api_telemetry::names::DISK_WAITING) <= 50.0);
    drop(hangs);
    drop(writer);
    model.assert_stored(&Disk::open(&path).unwrap().1);
}

#[test]
fn half_a_table_is_none_and_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.redb");
    let (disk, _) = Disk::open(&path).unwrap();
    let writer = disk.writer().unwrap();
    let mut model = Model::default();
    writer.write(model.step("b", 1, &[(1, Some(1))]));
    // Its base, and that of the facts, was never written.
    model.step("a", 1, &[(1, Some(1))]);
    writer.write(model.step("a", 2, &[(2, Some(2))]));
    model.facts(1, &[(1, Some(1))]);
    writer.write(model.facts(2, &[(2, Some(2))]));
    let mut lost = BTreeSet::new();
    wait_for("what is lost", || {
        lost.extend(writer.take_lost().0);
        lost.len() == 2
    });
    assert_eq!(lost, [None, Some(GatewayKey::new("t", "a"))].into());
    drop(writer);
    let (disk, stored) = Disk::open(&path).unwrap();
    assert_eq!(stored.gateways.len(), 1);
    assert!(stored.facts.is_empty());
    // Sent whole, it is there.
    let writer = disk.writer().unwrap();
    writer.write(model.whole("a", 2, &[(1, Some(1)), (2, Some(2))]));
    let facts = Change::Facts {
        base: None,
        revision: Revision(2),
        hash: model.facts.1.hash(),
        ops: ops(&[(1, Some(1)), (2, Some(2))]),
    };
    writer.write(facts);
    drop(writer);
    model.assert_stored(&Disk::open(&path).unwrap().1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Many changes as one lead to the same as each by itself, wherever the cuts are and whichever writes fail.
    #[test]
    fn changes_as_one_lead_to_the_same(
        steps in proptest::collection::vec((0..9_u8, 0..3_u8, 0..6_u8, proptest::option::of(0..9_u8), any::<bool>()), 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.redb");
        let (database, _) = file::open(&path, &(Box::new(file::database) as Opener)).unwrap();
        let mut model = Model::default();
        let mut waiting = pending::Pending::default();
        for (revision, (action, name, key, value, write)) in (1_u64..).zip(steps) {
            let name = format!("g{name}");
            waiting.add(match action {
                0 => model.begin(revision),
                1 | 2 => model.facts(revision, &[(key, value)]),
                3 => model.whole(&name, revision, &[(key, Some(1)), (key + 1, Some(2))]),
                4 => model.drop(&name),
                _ => model.step(&name, revision, &[(key, value)]),
            });
            if write {
                let lost = file::write(&database, &std::mem::take(&mut waiting)).unwrap();
                prop_assert_eq!(lost, vec![]);
            } else if action % 2 == 0 {
                // As after a failed write: what failed takes what came later.
                let later = std::mem::take(&mut waiting);
                waiting.absorb(later);
            }
        }
        file::write(&database, &waiting).unwrap();
        drop(database);
        model.assert_stored(&Disk::open(&path).unwrap().1);
    }
}
