//! What a durable append costs: our log against redb, interleaved on one disk. Figures for decision record 0002.
//!
//! `cargo run --release -p operator-consensus --example fsync_bench -- [FOLDER] [APPENDS]`; 2,000 appends of 1 KiB each
//! unless said otherwise. FOLDER must not be on tmpfs, where a sync costs nothing.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program for a terminal, which may die

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use operator_consensus::{Batch, Config, Node, RealDisk, StateMachine, Wal, start};
use redb::{Database, Durability, ReadableDatabase, ReadableTableMetadata, TableDefinition};

const BYTES: usize = 1024;
/// Appends the record of an index and makes it durable.
type Append = Box<dyn FnMut(u64)>;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let appends = arguments
        .next()
        .map_or(2000, |number| number.parse().unwrap());
    let folder = tempfile::tempdir_in(parent).unwrap();
    let path = folder.path();
    let mut candidates: Vec<(&str, Append)> = vec![
        ("fdatasync alone, overwriting", bare(&path.join("bare"))),
        ("our log: append + sync", wal(&path.join("wal"))),
        ("redb: insert + commit, Immediate", redb(&path.join("redb"))),
        ("a whole proposal: raft + our log", node(&path.join("node"))),
    ];
    let mut times = vec![Vec::new(); candidates.len()];
    for index in 0..appends {
        for ((_, append), times) in candidates.iter_mut().zip(&mut times) {
            let before = Instant::now();
            append(index);
            times.push(before.elapsed());
        }
    }
    println!("{appends} durable appends of {BYTES} bytes each, interleaved, ms:");
    println!(
        "{:34} {:>7} {:>7} {:>7} {:>7}",
        "", "p50", "p90", "p99", "max"
    );
    for ((name, _), times) in candidates.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |quantile: f64| ms(times[((times.len() - 1) as f64 * quantile) as usize]);
        let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
        println!("{name:34} {p50:7.3} {p90:7.3} {p99:7.3} {max:7.3}");
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn payload(index: u64) -> Vec<u8> {
    vec![index as u8 | 1; BYTES]
}

/// The floor: the same bytes written into a file that has its size.
fn bare(path: &Path) -> Append {
    let file = File::create(path).unwrap();
    file.write_all_at(&vec![0; 8 << 20], 0).unwrap();
    file.sync_all().unwrap();
    Box::new(move |index| {
        let offset = index * BYTES as u64 % (8 << 20);
        file.write_all_at(&payload(index), offset).unwrap();
        file.sync_data().unwrap();
    })
}

fn wal(path: &Path) -> Append {
    let disk = RealDisk::open(path).unwrap();
    let mut wal = Wal::open(Box::new(disk), 1, |_, _| Some(0)).unwrap();
    Box::new(move |index| {
        let mut batch = Batch::default();
        batch.push(1, &payload(index));
        wal.append(batch, index).unwrap();
        wal.sync().unwrap();
    })
}

fn redb(path: &Path) -> Append {
    let database = Database::create(path).unwrap();
    Box::new(move |index| {
        let mut write = database.begin_write().unwrap();
        write.set_durability(Durability::Immediate).unwrap();
        write
            .open_table(LOG)
            .unwrap()
            .insert(index, payload(index).as_slice())
            .unwrap();
        write.commit().unwrap();
        if index.is_multiple_of(500) {
            let read = database.begin_read().unwrap().open_table(LOG).unwrap();
            assert_eq!(read.len().unwrap(), index + 1);
        }
    })
}

struct Count(u64);

impl StateMachine for Count {
    type Output = u64;

    fn apply(&mut self, _: u64, _: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let bytes = bytes.try_into().map_err(|_| "not eight bytes")?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn node(path: &Path) -> Append {
    let state = Arc::new(parking_lot::RwLock::new(Count(0)));
    let node: Node<u64> = start(Config::single(path.into()), state, |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    Box::new(move |index| {
        let committed = runtime.block_on(node.propose(payload(index))).unwrap();
        assert_eq!(committed.output, index + 1);
    })
}
