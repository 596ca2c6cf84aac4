//! `up` as a user meets it.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use perf_e2e::{Up, wait_for};

#[test]
fn the_quick_start_answers_and_follows_edits_and_survives_mistakes() {
    let mut up = Up::start("quickstart");
    let curls = up.curls();
    assert_eq!(curls.len(), 4, "{}", up.printed());
    for curl in &curls {
        let answer = up.shell(&format!("{curl} -m 10 -f"));
        assert!(answer.contains("\"backend\""), "{curl}: {answer}");
    }

    // An edit: everything to the new version.
    let (address, port, target) = up.binding("team-a", "web", 80);
    let shop = |path: &str| {
        up.shell(&format!(
            "curl -s -m 10 -H 'Host: shop.team-a.test' http://{address}:{port}{path}"
        ))
    };
    up.edit("team-a.yaml", |text| {
        text.replace("weight: 80", "weight: 0")
    });
    up.wait_for_line("HTTPRoute team-a/shop  2/2 shards");
    for _ in 0..20 {
        assert!(shop("/").contains("shop-v2"));
    }
    // Each shard alone, by its target port.
    for shard in 0..2 {
        let own = up.shard_address(shard);
        let answer = up.shell(&format!(
            "curl -s -m 10 -H 'Host: shop.team-a.test' http://{own}:{target}/"
        ));
        assert!(answer.contains("shop-v2"), "{answer}");
    }

    // Mistakes: the last good state serves, and what is wrong is said.
    up.edit("team-b.yaml", |text| text.replacen("spec:", "spec: [", 1));
    wait_for("the problem in the status", || {
        up.shardway(&["status"])
            .ok()
            .filter(|text| text.contains("problem: team-b.yaml"))
    });
    let (b_address, b_port, _) = up.binding("team-b", "api", 8080);
    let api = format!("curl -s -m 10 -f -H 'Host: api.team-b.test' http://{b_address}:{b_port}/");
    up.shell(&api);
    up.edit("team-b.yaml", |text| {
        text.replacen("spec: [", "spec:", 1)
            .replace("backendRefs:", "backendRfs:")
    });
    let table = wait_for("the refusal", || {
        up.shardway(&["get", "httproute", "api", "-o", "wide"])
            .ok()
            .filter(|text| text.contains("did you mean backendRefs?"))
    });
    assert!(table.contains("False"), "{table}");
    up.shell(&api);
    up.edit("team-b.yaml", |text| {
        text.replace("backendRfs:", "backendRefs:")
    });
    up.shardway(&[
        "wait",
        "httproute",
        "api",
        "-n",
        "team-b",
        "--for",
        "Accepted",
    ])
    .unwrap();

    // A backend that does not exist fails its share alone, and says so.
    up.edit("team-a.yaml", |text| {
        text.replace(
            "    - name: shop-v2\n      port: 80\n      weight: 20",
            "    - name: nowhere\n      port: 80\n      weight: 20",
        )
    });
    wait_for("500 for the missing backend", || {
        let code = up.shell(&format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}' -H 'Host: shop.team-a.test' http://{address}:{port}/"));
        (code == "500").then_some(())
    });
    let yaml = up
        .shardway(&["get", "httproute", "shop", "-o", "yaml"])
        .unwrap();
    assert!(yaml.contains("BackendNotFound"), "{yaml}");

    let explained = up
        .shardway(&[
            "explain",
            "GET",
            &format!("http://{address}:{port}/"),
            "-H",
            "Host: shop.team-a.test",
            "-H",
            "x-canary: true",
        ])
        .unwrap();
    assert!(
        explained.contains("HTTPRoute team-a/shop rules[0].matches[0]"),
        "{explained}"
    );

    let children = [
        up.children("shard-proxy"),
        up.children("operator"),
        up.children("echo"),
    ]
    .concat();
    assert!(children.len() >= 4);
    assert_eq!(up.interrupt(), Some(0), "{}", up.printed());
    for pid in children {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} is left"
        );
    }

    // A second start goes on from the state on disk: nothing new to commit.
    up.run();
    assert!(
        !up.printed().contains("the folder as found"),
        "{}",
        up.printed()
    );
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_killed_operator_or_shard_costs_no_request_that_is_not_on_the_killed_shard() {
    let up = Up::start("quickstart");
    let (address, port, _) = up.binding("team-a", "web", 80);
    let url = format!("http://{address}:{port}/");
    let stop = Arc::new(AtomicBool::new(false));
    let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let traffic = {
        let (stop, sent, failed, url) = (
            Arc::clone(&stop),
            Arc::clone(&sent),
            Arc::clone(&failed),
            url.clone(),
        );
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let status = Command::new("curl")
                    .args([
                        "-s",
                        "-m",
                        "10",
                        "-f",
                        "-o",
                        "/dev/null",
                        "-H",
                        "Host: shop.team-a.test",
                        &url,
                    ])
                    .status();
                sent.fetch_add(1, Ordering::Relaxed);
                if !status.is_ok_and(|status| status.success()) {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    let progress = |more: u64| {
        let goal = sent.load(Ordering::Relaxed) + more;
        wait_for("requests", || {
            (sent.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    progress(20);
    let operator = up.operator().unwrap()["pid"].as_u64().unwrap();
    up.shell(&format!("kill -9 {operator}"));
    progress(20);
    wait_for("the operator's return", || {
        up.operator()
            .filter(|info| info["pid"].as_u64() != Some(operator))
    });
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {} requests while the operator was away",
        sent.load(Ordering::Relaxed)
    );

    // It goes on where it was.
    up.edit("team-a.yaml", |text| {
        text.replace("weight: 80", "weight: 0")
    });
    up.wait_for_line("HTTPRoute team-a/shop  2/2 shards");

    let shard = up.children("--id 0").pop().unwrap();
    up.shell(&format!("kill -9 {shard}"));
    wait_for("the shard's return", || {
        up.children("--id 0").pop().filter(|pid| *pid != shard)
    });
    progress(20);
    stop.store(true, Ordering::Relaxed);
    traffic.join().unwrap();
    // Only a connection that was open on the killed shard may have failed: this client has one at a time.
    assert!(
        failed.load(Ordering::Relaxed) <= 1,
        "{} failed",
        failed.load(Ordering::Relaxed)
    );
    assert!(
        up.shell(&format!("curl -s -m 10 -H 'Host: shop.team-a.test' {url}"))
            .contains("shop-v2")
    );
}

#[test]
fn shards_start_and_serve_from_disk_without_an_operator() {
    let up = Up::start("quickstart");
    let (_, _, target) = up.binding("team-b", "api", 8080);
    let own = up.shard_address(1);
    // The operator cannot come back: its folder is not one any more.
    let operator = up.operator().unwrap()["pid"].as_u64().unwrap();
    let aside = up.data.join("raft.aside");
    std::fs::rename(up.data.join("raft"), &aside).unwrap();
    std::fs::write(up.data.join("raft"), "in the way").unwrap();
    up.shell(&format!("kill -9 {operator}"));
    wait_for("the operator to be away", || {
        up.children("operator --source").is_empty().then_some(())
    });
    let shard = up.children("--id 1").pop().unwrap();
    up.shell(&format!("kill -9 {shard}"));
    wait_for("an answer of the shard that booted from disk", || {
        let pid = up.children("--id 1").pop().filter(|pid| *pid != shard)?;
        let output = Command::new("curl")
            .args([
                "-s",
                "-m",
                "5",
                "-f",
                "-H",
                "Host: api.team-b.test",
                &format!("http://{own}:{target}/"),
            ])
            .output()
            .unwrap();
        (pid > 0 && output.status.success()).then_some(())
    });
}
