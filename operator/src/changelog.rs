//! One line on standard output for each revision, once it is served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use api::{GatewayKey, ObjectKey, Revision};

/// Objects named in a line; more are counted.
const OBJECTS_MAX: usize = 3;
/// Revisions that wait for shards; older ones are forgotten.
const WAITING_MAX: usize = 10_000;

struct Line {
    objects: Vec<ObjectKey>,
    total: usize,
    seen: Instant,
    gateways: BTreeSet<GatewayKey>,
    shards: (usize, usize),
}

/// Lines that wait for their shards.
#[derive(Default)]
pub(crate) struct ChangeLog {
    waiting: BTreeMap<Revision, Line>,
}

impl ChangeLog {
    /// A revision was committed. One that changes facts alone counts at once.
    pub(crate) fn committed(
        &mut self,
        revision: Revision,
        objects: &[ObjectKey],
        gateways: impl IntoIterator<Item = GatewayKey>,
        seen: Instant,
    ) {
        let line = Line {
            objects: objects.iter().take(OBJECTS_MAX).cloned().collect(),
            total: objects.len(),
            seen,
            gateways: gateways.into_iter().collect(),
            shards: (0, 0),
        };
        if line.gateways.is_empty() {
            print(revision, &line);
            return;
        }
        self.waiting.insert(revision, line);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_first();
        }
    }

    /// All live shards of a Gateway serve a revision.
    pub(crate) fn propagated(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        shards: (usize, usize),
    ) {
        let mut done = Vec::new();
        for (at, line) in self.waiting.range_mut(..=revision) {
            if line.gateways.remove(gateway) {
                line.shards = shards;
                if line.gateways.is_empty() {
                    done.push(*at);
                }
            }
        }
        for revision in done {
            if let Some(line) = self.waiting.remove(&revision) {
                print(revision, &line);
            }
        }
    }
}

#[allow(clippy::print_stdout)] // the change log is this program's output
fn print(revision: Revision, line: &Line) {
    let mut objects: Vec<String> = line.objects.iter().map(ToString::to_string).collect();
    if line.total > line.objects.len() {
        objects.push(format!("and {} more", line.total - line.objects.len()));
    }
    if objects.is_empty() {
        objects.push("the folder as found".to_owned());
    }
    let (served, total) = line.shards;
    let shards = if total == 0 {
        "facts".to_owned()
    } else {
        format!("{served}/{total} shards")
    };
    let ms = line.seen.elapsed().as_secs_f64() * 1000.0;
    println!(
        "revision {revision}  {}  {shards}  {ms:.1} ms",
        objects.join(", ")
    );
}
