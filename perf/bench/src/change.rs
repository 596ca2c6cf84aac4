//! Rules and backends rewritten under traffic: no request may fail.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::run::{Run, base};
use crate::verdict;

/// `change`: wrk (HTTP/1.1) and h2load (HTTP/2) send, neither retries, while one route's rules alternate.
pub(crate) fn change(changes: usize, seconds: u64) -> anyhow::Result<()> {
    // Echo backends that shardway-up starts.
    let endpoints = ["127.0.3.201:9101", "127.0.3.201:9102"];
    let service = |name: &str, endpoint: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench, annotations: {{shardway.dev/endpoints: \"{endpoint}\"}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    let text = format!(
        "{}{}{}",
        base(endpoints[0]),
        service("one", endpoints[0]),
        service("two", endpoints[1])
    );
    let run = Run::start(
        &[("base.yaml".into(), text), ("route.yaml".into(), rules(0))],
        2,
        None,
    )?;
    let (address, _) = run.addresses()?;
    let url = format!("http://{address}/");
    let began = Instant::now();
    let wrk = Command::new("wrk")
        .args(["-t1", "-c32", &format!("-d{seconds}s"), &url])
        .stdout(Stdio::piped())
        .spawn()
        .context("start wrk; apt-get install wrk")?;
    let h2load = Command::new("h2load")
        .args(["-t1", "-c8", "-m8", &format!("-D{seconds}"), &url])
        .stdout(Stdio::piped())
        .spawn()
        .context("start h2load; apt-get install nghttp2-client")?;
    let pause = Duration::from_secs(seconds).mul_f64(0.9) / u32::try_from(changes.max(1))?;
    let mut made = 0;
    for change in 1..=changes {
        // An even pace over the time of the traffic.
        let at = began + pause * u32::try_from(change)?;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        run.put("route.yaml", &rules(change))?;
        made += 1;
    }
    let wrk = String::from_utf8(wrk.wait_with_output()?.stdout)?;
    let h2load = String::from_utf8(h2load.wait_with_output()?.stdout)?;
    let (sent, failed) = wrk_counts(&wrk);
    let (h2_sent, h2_failed) = h2load_counts(&h2load);
    println!("change: {made} rewrites of rules and backends in {seconds} s, client retries off");
    println!(
        "  HTTP/1.1: {sent} sent, {failed} failed; HTTP/2: {h2_sent} sent, {h2_failed} failed"
    );
    if failed + h2_failed > 0 {
        println!("--- wrk:\n{wrk}--- h2load:\n{h2load}");
    }
    verdict("failed requests", (failed + h2_failed) as f64, 0.0);
    verdict(
        "requests short of 200,000",
        (200_000_f64 - (sent + h2_sent) as f64).max(0.0),
        0.0,
    );
    Ok(())
}

/// The route's form after so many changes: other backends, weights, a header, a rule more.
fn rules(change: usize) -> String {
    let backends = match change % 3 {
        0 => "[{name: one, port: 80}]",
        1 => "[{name: two, port: 80}]",
        _ => "[{name: one, port: 80, weight: 1}, {name: two, port: 80, weight: 3}]",
    };
    let more = if change.is_multiple_of(2) {
        ""
    } else {
        "  - matches: [{path: {value: /other}}]\n    backendRefs: [{name: two, port: 80}]\n"
    };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: bench}}\nspec:\n  parentRefs: [{{name: web}}]\n  rules:\n{more}  - filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-change, value: \"{change}\"}}]}}}}]\n    backendRefs: {backends}\n"
    )
}

fn number_after(text: &str, label: &str) -> u64 {
    text.split(label)
        .nth(1)
        .and_then(|rest| {
            rest.trim_start()
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

fn wrk_counts(text: &str) -> (u64, u64) {
    let sent = text
        .lines()
        .find(|line| line.contains("requests in"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    let mut failed = number_after(text, "Non-2xx or 3xx responses:");
    for label in ["connect ", "read ", "write ", "timeout "] {
        if let Some(line) = text.lines().find(|line| line.contains("Socket errors")) {
            failed += number_after(line, label);
        }
    }
    (sent.unwrap_or(0), failed)
}

/// `requests: 1 total, 1 started, 1 done, 1 succeeded, 0 failed, 0 errored, 0 timeout`
fn h2load_counts(text: &str) -> (u64, u64) {
    let Some(line) = text.lines().find(|line| line.starts_with("requests:")) else {
        return (0, 1);
    };
    let count = |word: &str| -> u64 {
        line.split(',')
            .find(|part| part.contains(word))
            .and_then(|part| {
                part.trim()
                    .trim_start_matches("requests:")
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    };
    let codes = text
        .lines()
        .find(|line| line.starts_with("status codes:"))
        .unwrap_or_default();
    let bad: u64 = ["3xx", "4xx", "5xx"]
        .iter()
        .filter_map(|class| {
            codes
                .split(',')
                .find(|part| part.contains(class))?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    (
        count("done"),
        count("failed").max(bad) + count("errored") + count("timeout"),
    )
}
