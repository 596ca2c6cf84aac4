//! Large bodies and HTTP/2 through a Gateway, as clients send them, and processes that are killed meanwhile.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::process::{Command, Stdio};

use perf_e2e::{Up, rss_mib, wait_for};

/// Bytes of a large body.
const LARGE: u64 = 192 * 1024 * 1024;

#[test]
fn large_bodies_stream_both_ways_in_constant_memory_over_each_protocol() {
    let up = Up::start("quickstart");
    let (address, port, _) = up.binding("team-a", "web", 80);
    let large = up.data.join("large");
    let file = fs::File::create(&large).unwrap();
    file.set_len(LARGE).unwrap();
    let shards = up.children("shard-proxy");
    let most = || {
        let used = shards.iter().map(|pid| rss_mib(*pid));
        used.fold(0.0, f64::max)
    };
    let before = most();
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        // Up and down at once: the backend sends back what it gets while it gets it.
        let sum = up.shell(&format!(
            "curl -s -f -m 120 {protocol} -H 'Host: shop.team-a.test' -T {} http://{address}:{port}/echo | wc -c",
            large.display()
        ));
        assert_eq!(sum.trim().parse(), Ok(LARGE), "{protocol}");
    }
    let grown = most() - before;
    assert!(grown < 24.0, "a shard grew by {grown:.1} MiB");
}

#[test]
fn http2_streams_that_are_open_survive_changes_of_their_route() {
    let up = Up::start("quickstart");
    let (address, port, _) = up.binding("team-a", "web", 80);
    // A slow upload over HTTP/2, paced so that it lasts over several changes.
    let mut slow = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "head -c 3000000 /dev/zero | curl -s -f -m 60 --http2-prior-knowledge --limit-rate 1M -X POST -H 'Expect:' \
             -H 'Host: shop.team-a.test' -T - http://{address}:{port}/echo | wc -c"
        ))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for (from, to) in [("weight: 80", "weight: 0"), ("weight: 0", "weight: 80")] {
        let lines = up.printed().matches("HTTPRoute team-a/shop").count();
        up.edit("team-a.yaml", |text| text.replacen(from, to, 1));
        wait_for("the change", || {
            let more = up.printed().matches("HTTPRoute team-a/shop").count() > lines;
            more.then_some(())
        });
    }
    let running = slow.try_wait().unwrap().is_none();
    let output = slow.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "3000000");
    assert!(running, "the upload was over before the changes were");
}
