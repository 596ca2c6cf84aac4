//! What a table costs: bytes per route, nanoseconds per match, microseconds per change of one rule.
//!
//! `cargo run --release -p shard-proxy-table --example cost`
#![allow(clippy::print_stdout)] // its output is what it is for
#![allow(clippy::unwrap_used)] // it ends at the first surprise
#![allow(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use api::{BackendKey, GatewayKey, Revision, RouteKey, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, ListenerProtocol, ListenerSpec, NameValue, PathMatch,
    RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::{GatewayEntry, GatewayEntryKey, Op, SetHash};
use http::{HeaderMap, Method};
use shard_proxy_table::{Outcome, RequestView, SubTable};

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Of this thread alone: in a test the harness has threads of its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what the program asks for; what the system's allocator adds per block is not in it.
struct Counting;

#[allow(unsafe_code)] // an allocator cannot be written without; it passes everything on
// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `B` of the proxy is a pointer as well.
type Handle = std::sync::Arc<()>;

fn rule(name: &str, host: Option<&str>, condition: RouteMatch) -> Op {
    let spec = RuleSpec {
        name: None,
        created_at: Timestamp(1),
        attachments: vec![Attachment {
            listener: "http".into(),
            hosts: vec![AttachedHost {
                host: host.map(str::to_owned),
                route_host: host.map(str::to_owned),
            }],
        }],
        matches: vec![condition],
        filters: Vec::new(),
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(BackendKey {
                namespace: "tenant".into(),
                name: "web".into(),
                port: 80,
            }),
            weight: 1,
            filters: Vec::new(),
        }],
        timeouts: Timeouts::default(),
    };
    Op::put(
        &GatewayEntryKey::Rule(RouteKey::http("tenant", name), 0),
        &GatewayEntry::Rule(spec),
    )
}

fn condition(path: &str, value: Option<String>) -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix(path.into()),
        method: None,
        headers: value
            .map(|value| NameValue {
                name: "x-version".into(),
                value,
            })
            .into_iter()
            .collect(),
        query: Vec::new(),
    }
}

fn hash(op: &Op) -> SetHash {
    SetHash::of(&op.key, op.value.as_deref().unwrap())
}

/// What one table costs.
pub(crate) struct Cost {
    pub(crate) route_bytes: i64,
    pub(crate) built: Duration,
    pub(crate) change: Duration,
    pub(crate) match_nanos: u128,
    pub(crate) match_allocations: u64,
}

fn measure(
    count: usize,
    make: impl Fn(usize, &str) -> Op,
    request: impl Fn(usize) -> (String, String),
) -> Cost {
    let listener = Op::put(
        &GatewayEntryKey::Listener("http".into()),
        &GatewayEntry::Listener(ListenerSpec {
            port: 80,
            protocol: ListenerProtocol::Http,
            hostname: None,
            certificates: Vec::new(),
        }),
    );
    let mut ops: Vec<Op> = (0..count).map(|at| make(at, "")).collect();
    ops.push(listener);
    let mut entries = ops.iter().map(hash).fold(SetHash::default(), SetHash::plus);
    let handle = Handle::default();
    let mut backends = |_: &BackendKey| Handle::clone(&handle);
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let start = Instant::now();
    let mut table: SubTable<Handle> = SubTable::empty(GatewayKey {
        namespace: "tenant".into(),
        name: "gateway".into(),
    })
    .apply(Revision(0), Revision(1), true, &ops, entries, &mut backends)
    .unwrap();
    let built = start.elapsed();
    let bytes = LIVE_BYTES.load(Ordering::Relaxed) - before;

    // One rule of many changes and changes back, spread over the table; the reader keeps the last table, as the proxy does.
    let rounds = 2_000;
    let changes: Vec<(Op, SetHash)> = (0..rounds)
        .map(|round| {
            let at = (round / 2 * 7_919) % count;
            let (one, other) = (&ops[at], make(at, "changed"));
            let difference = hash(&other).minus(hash(one));
            if round % 2 == 0 {
                entries = entries.plus(difference);
                (other, entries)
            } else {
                entries = entries.minus(difference);
                (one.clone(), entries)
            }
        })
        .collect();
    let start = Instant::now();
    for (op, hash) in &changes {
        let base = table.revision();
        let next = Revision(base.0 + 1);
        let ops = std::slice::from_ref(op);
        table = table
            .apply(base, next, false, ops, *hash, &mut backends)
            .unwrap();
    }
    let change = start.elapsed() / rounds as u32;

    let requests: Vec<(String, String)> = (0..1_024).map(|at| request(at * 31 % count)).collect();
    let headers = HeaderMap::new();
    let allocations = ALLOCATIONS.get();
    let passes = 20;
    let start = Instant::now();
    for _ in 0..passes {
        for (host, path) in &requests {
            let view = RequestView {
                host,
                path,
                query: None,
                method: &Method::GET,
                headers: &headers,
            };
            let matched = matches!(black_box(table.route(80, &view)), Outcome::Matched(_));
            assert!(matched, "{host}{path}");
        }
    }
    let per_match = start.elapsed().as_nanos() / (passes * requests.len() as u128);
    let allocations = ALLOCATIONS.get() - allocations;
    Cost {
        route_bytes: bytes / count as i64,
        built,
        change,
        match_nanos: per_match,
        match_allocations: allocations,
    }
}

/// So many hosts with one route each.
pub(crate) fn hosts(count: usize) -> Cost {
    measure(
        count,
        |at, suffix| {
            let host = format!("host-{at}.example.com");
            rule(
                &format!("route-{at}"),
                Some(&host),
                condition(&format!("/{suffix}"), None),
            )
        },
        |at| (format!("host-{at}.example.com"), "/some/path".into()),
    )
}

/// So many routes of one host, each with a path.
pub(crate) fn paths(count: usize) -> Cost {
    measure(
        count,
        |at, suffix| {
            let path = format!("/api/service-{at}{suffix}");
            rule(
                &format!("route-{at}"),
                Some("www.example.com"),
                condition(&path, None),
            )
        },
        |at| ("www.example.com".into(), format!("/api/service-{at}/item")),
    )
}

/// The worst case: all share host and path, so that they are tried one after the other, the one without header last.
pub(crate) fn headers(count: usize) -> Cost {
    measure(
        count,
        |at, suffix| {
            let value = (at != 0).then(|| format!("v{at}{suffix}"));
            rule(
                &format!("route-{at}"),
                Some("www.example.com"),
                condition("/", value),
            )
        },
        |_| ("www.example.com".into(), "/".into()),
    )
}

fn main() {
    for (title, cost) in [
        ("10,000 hosts, one route each", hosts(10_000)),
        ("100,000 hosts, one route each", hosts(100_000)),
        ("5,000 routes of one host, a path each", paths(5_000)),
        (
            "5,000 routes of one host and path, a header each",
            headers(5_000),
        ),
    ] {
        println!(
            "{title}: {} bytes per route, built in {} ms; {:.1} us per change of one rule; {} ns and {} allocations per match",
            cost.route_bytes,
            cost.built.as_millis(),
            cost.change.as_nanos() as f64 / 1_000.0,
            cost.match_nanos,
            cost.match_allocations,
        );
    }
}
