//! What a table costs: bytes per route, nanoseconds per match, microseconds per change of one rule.
//!
//! `cargo run --release -p shard-proxy-table --example cost`
#![allow(clippy::print_stdout)] // its output is what it is for
#![allow(clippy::unwrap_used)] // it ends at the first surprise
#![allow(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use api::{BackendKey, GatewayKey, Revision, RouteKey, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, ListenerProtocol, ListenerSpec, NameValue, PathMatch,
    RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::{GatewayEntry, GatewayEntryKey, Op, SetHash};
use http::{HeaderMap, Method};
use shard_proxy_table::{Outcome, RequestView, SubTable};

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts what the program asks for; what the system's allocator adds per block is not in it.
struct Counting;

#[allow(unsafe_code)] // an allocator cannot be written without; it passes everything on
// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

fn measure(
    title: &str,
    count: usize,
    make: impl Fn(usize, &str) -> Op,
    request: impl Fn(usize) -> (String, String),
) {
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
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let passes = 200;
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
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    println!(
        "{title}: {} bytes per route, built in {} ms; {:.1} us per change of one rule; {per_match} ns and {allocations} allocations per match",
        bytes / count as i64,
        built.as_millis(),
        change.as_nanos() as f64 / 1_000.0,
    );
}

fn main() {
    for hosts in [10_000, 100_000] {
        measure(
            &format!("{hosts} hosts, one route each"),
            hosts,
            |at, suffix| {
                let host = format!("host-{at}.example.com");
                rule(
                    &format!("route-{at}"),
                    Some(&host),
                    condition(&format!("/{suffix}"), None),
                )
            },
            |at| (format!("host-{at}.example.com"), "/some/path".into()),
        );
    }
    measure(
        "5,000 routes of one host, a path each",
        5_000,
        |at, suffix| {
            let path = format!("/api/service-{at}{suffix}");
            rule(
                &format!("route-{at}"),
                Some("www.example.com"),
                condition(&path, None),
            )
        },
        |at| ("www.example.com".into(), format!("/api/service-{at}/item")),
    );
    // The worst case: all share host and path, so that they are tried one after the other.
    measure(
        "5,000 routes of one host and one path, a header each",
        5_000,
        |at, suffix| {
            let value = (at != 0).then(|| format!("v{at}{suffix}"));
            rule(
                &format!("route-{at}"),
                Some("www.example.com"),
                condition("/", value),
            )
        },
        |_| ("www.example.com".into(), "/".into()),
    );
}
