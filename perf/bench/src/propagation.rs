//! How long a new route takes to be served by every shard, and what it costs.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::proc::{cpu_ns, quantile, rss_mib};
use crate::run::{Probe, Run, base, route};
use crate::verdict;

/// Longest wait for one route.
const ROUTE_WITHIN: Duration = Duration::from_secs(10);
/// Pause between questions. Without one, client and shard would take both cores from those who are measured.
const ASKED_EVERY: Duration = Duration::from_micros(200);
/// Routes in one file of those that are there already.
const ROUTES_PER_FILE: usize = 100;

struct Measured {
    p50_ms: f64,
    p99_ms: f64,
    bare_p50_ms: f64,
    bare_p99_ms: f64,
    operator_ms: f64,
    shard_ms: f64,
    shard_rss_mib: f64,
    operator_rss_mib: f64,
    other: BTreeMap<u16, usize>,
}

/// `propagation`: latency beside a bare RPC and fsync of the same run.
pub(crate) fn propagation(sizes: &[usize], samples: usize) -> anyhow::Result<()> {
    for size in sizes {
        let m = measure(*size, samples, ASKED_EVERY)?;
        println!(
            "propagation: {size} routes there, {samples} created one by one, 2 shards asked by their target ports"
        );
        println!(
            "  file renamed -> 200 on both shards: p50 {:.2} ms, p99 {:.2} ms",
            m.p50_ms, m.p99_ms
        );
        println!(
            "  bare RPC + fdatasync, same run:     p50 {:.2} ms, p99 {:.2} ms",
            m.bare_p50_ms, m.bare_p99_ms
        );
        println!(
            "  ratio p50 {:.1}, p99 {:.1}; CPU for each change: operator {:.2} ms, shard {:.2} ms",
            m.p50_ms / m.bare_p50_ms,
            m.p99_ms / m.bare_p99_ms,
            m.operator_ms,
            m.shard_ms
        );
        println!(
            "  RSS: operator {:.1} MiB, shard {:.1} MiB; answers other than 404 and 200: {:?}",
            m.operator_rss_mib, m.shard_rss_mib, m.other
        );
        verdict("p50 / bare p50", m.p50_ms / m.bare_p50_ms, 3.0);
        verdict("p99 / bare p99", m.p99_ms / m.bare_p99_ms, 3.0);
        verdict("operator CPU for each change, ms", m.operator_ms, 2.0);
        verdict(
            "answers other than 404 and 200",
            m.other.values().sum::<usize>() as f64,
            0.0,
        );
    }
    Ok(())
}

/// `hosts`: memory of a shard, and its CPU for one host's change.
pub(crate) fn hosts(count: usize, samples: usize) -> anyhow::Result<()> {
    let m = measure(count, samples, Duration::from_millis(10))?;
    println!(
        "hosts: {count} host names with a route each, {samples} more added one by one, 2 shards"
    );
    println!(
        "  shard RSS {:.1} MiB, CPU for each change {:.3} ms; operator RSS {:.1} MiB, CPU {:.2} ms",
        m.shard_rss_mib, m.shard_ms, m.operator_rss_mib, m.operator_ms
    );
    verdict("shard RSS, MiB", m.shard_rss_mib, 30.0);
    verdict(
        "shard CPU for each change, a question or two included, ms",
        m.shard_ms,
        1.0,
    );
    Ok(())
}

/// `pause` lies before each question, so that what is asked does not count for more than what is changed.
fn measure(size: usize, samples: usize, pause: Duration) -> anyhow::Result<Measured> {
    let backend = backend()?;
    let mut files = vec![("base.yaml".to_owned(), base(&backend))];
    for first in (0..size).step_by(ROUTES_PER_FILE) {
        let routes: Vec<String> = (first..size.min(first + ROUTES_PER_FILE))
            .map(|n| route(&format!("r{n}")))
            .collect();
        files.push((format!("routes-{first}.yaml"), routes.join("---\n")));
    }
    let run = Run::start(&files, 2, None)?;
    let (_, shards) = run.addresses()?;
    let mut probes = shards
        .iter()
        .map(|address| Probe::open(*address))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (operator, pids) = (run.operator()?, run.shards());
    if pids.len() != shards.len() {
        bail!(
            "{} of {} shard processes were found",
            pids.len(),
            shards.len()
        );
    }
    // Everything that was there before is served, by each shard.
    if let Some(last) = size.checked_sub(1) {
        for probe in &mut probes {
            let status = probe.status(&format!("r{last}.bench.test"))?;
            if status != 200 {
                bail!("the last route answers {status} before the first change");
            }
        }
    }
    run.settle()?;
    let mut bare = Bare::new(run.folder.parent().unwrap_or(&run.folder))?;
    let shard_rss_mib = pids.iter().map(|pid| rss_mib(*pid)).fold(0.0, f64::max);
    let mut other = BTreeMap::new();
    let (mut times, mut bares) = (Vec::new(), Vec::new());
    let (mut operator_ns, mut shard_ns) = (0, 0);
    for sample in 0..samples {
        bares.push(bare.round()?.as_secs_f64() * 1000.0);
        let name = format!("probe{sample}");
        let host = format!("{name}.bench.test");
        let cpu = |pids: &[u32]| pids.iter().map(|pid| cpu_ns(*pid)).sum::<u64>();
        let (operator_before, shard_before) = (cpu_ns(operator), cpu(&pids));
        for probe in &mut probes {
            let before = probe.status(&host)?;
            if before != 404 {
                *other.entry(before).or_insert(0) += 1;
            }
        }
        let began = Instant::now();
        run.put(&format!("{name}.yaml"), &route(&name))?;
        for probe in &mut probes {
            loop {
                std::thread::sleep(pause);
                match probe.status(&host)? {
                    200 => break,
                    404 => {}
                    status => *other.entry(status).or_insert(0) += 1,
                }
                if began.elapsed() > ROUTE_WITHIN {
                    bail!(
                        "route {name} is not served after {} s",
                        ROUTE_WITHIN.as_secs()
                    );
                }
            }
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        operator_ns += cpu_ns(operator) - operator_before;
        shard_ns += cpu(&pids) - shard_before;
    }
    times.sort_by(f64::total_cmp);
    bares.sort_by(f64::total_cmp);
    let each = |ns: u64, of: usize| ns as f64 / 1e6 / (samples * of) as f64;
    Ok(Measured {
        p50_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        bare_p50_ms: quantile(&bares, 0.5),
        bare_p99_ms: quantile(&bares, 0.99),
        operator_ms: each(operator_ns, 1),
        shard_ms: each(shard_ns, pids.len().max(1)),
        shard_rss_mib,
        operator_rss_mib: rss_mib(operator),
        other,
    })
}

/// A backend that answers 200, in this process.
fn backend() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let mut held = Vec::new();
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        held.extend_from_slice(&buffer[..count]);
        while let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            held.drain(..end + 4);
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .is_err()
            {
                return;
            }
        }
    }
}

/// One round trip of 1 KiB over loopback and one durable append of it: what no rollout can be cheaper than.
struct Bare {
    stream: TcpStream,
    file: std::fs::File,
}

impl Bare {
    fn new(folder: &std::path::Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        let (mut peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while peer.read_exact(&mut buffer).is_ok() && peer.write_all(&buffer).is_ok() {}
        });
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("bare"))?;
        Ok(Self { stream, file })
    }

    fn round(&mut self) -> anyhow::Result<Duration> {
        let mut buffer = [7; 1024];
        let began = Instant::now();
        self.stream.write_all(&buffer)?;
        self.stream.read_exact(&mut buffer)?;
        self.file.write_all(&buffer)?;
        self.file.sync_data()?;
        Ok(began.elapsed())
    }
}
