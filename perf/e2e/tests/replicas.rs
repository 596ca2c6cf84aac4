//! Three replicas of the operator on one machine: one leads, any of them may die, shards follow whichever they reach.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU8, Ordering};

use perf_e2e::{Programs, example, wait_for};
use serde_json::Value;

/// Processes that end with the test.
struct Group {
    programs: Programs,
    range: String,
    operators: Vec<Option<Child>>,
    shards: Vec<Child>,
    peers: Vec<u16>,
    streams: Vec<u16>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

/// Manifests as an API server would tell all replicas of them: each replica of a folder counts uids and ages by itself.
fn with_metadata(text: &str, file: &str) -> String {
    let documents = text.split("\nmetadata:\n").enumerate();
    let documents: Vec<String> = documents
        .map(|(n, rest)| match n {
            0 => rest.to_owned(),
            n => format!(
                "\nmetadata:\n  uid: {file}-{n}\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n{rest}"
            ),
        })
        .collect();
    documents.concat()
}

/// The start of an address range that no other test has.
fn range() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(252);
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{own}", 100 + std::process::id() % 100)
}

impl Group {
    fn start() -> Self {
        let programs = Programs::new();
        fs::create_dir(programs.path("manifests")).unwrap();
        for entry in fs::read_dir(example("quickstart")).unwrap() {
            let entry = entry.unwrap();
            let to = programs.path("manifests").join(entry.file_name());
            let text = fs::read_to_string(entry.path()).unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            fs::write(to, with_metadata(&text, &name)).unwrap();
        }
        let mut group = Self {
            programs,
            range: range(),
            operators: vec![None, None, None],
            shards: Vec::new(),
            peers: free_ports(3),
            streams: free_ports(3),
        };
        for ordinal in 0..3 {
            group.start_operator(ordinal);
        }
        for shard in 0..2 {
            group.start_shard(shard);
        }
        group
    }

    fn path(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    fn data(&self, ordinal: usize) -> PathBuf {
        self.path(&format!("operator-{ordinal}"))
    }

    fn start_operator(&mut self, ordinal: usize) {
        let peers: Vec<String> = self
            .peers
            .iter()
            .enumerate()
            .map(|(n, port)| format!("{n}=127.0.0.1:{port}"))
            .collect();
        let arguments = [
            format!("--source=dir:{}", self.path("manifests").display()),
            format!("--data={}", self.data(ordinal).display()),
            format!("--tls-dir={}", self.path("tls").display()),
            format!("--peer=127.0.0.1:{}", self.peers[ordinal]),
            format!("--stream=127.0.0.1:{}", self.streams[ordinal]),
            format!("--ordinal={ordinal}"),
            "--replicas=3".to_owned(),
            format!("--peers={}", peers.join(",")),
            format!("--address-range={}.0/24", self.range),
        ];
        let log = format!("operator-{ordinal}.log");
        let child = self.programs.spawn("operator", &arguments, &log);
        self.operators[ordinal] = Some(child);
    }

    fn start_shard(&mut self, shard: u32) {
        let operators: Vec<String> = self
            .streams
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let child = self
            .programs
            .shard(shard, &operators.join(","), &self.range);
        self.shards.push(child);
    }

    fn kill(&mut self, ordinal: usize) {
        let mut child = self.operators[ordinal].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What a replica says of itself.
    fn info(&self, ordinal: usize) -> Option<Value> {
        self.operators[ordinal].as_ref()?;
        self.ask(ordinal, "/api/v1/info")
    }

    fn ask(&self, ordinal: usize, path: &str) -> Option<Value> {
        let file = fs::read_to_string(self.data(ordinal).join("operator.json")).ok()?;
        let file: Value = serde_json::from_str(&file).ok()?;
        let url = format!("http://{}{path}", file["admin"].as_str()?);
        serde_json::from_str(&curl(&[&url])?).ok()
    }

    fn leader(&self) -> usize {
        wait_for("a leader", || {
            (0..3).find(|ordinal| {
                self.info(*ordinal)
                    .is_some_and(|info| info["raft"]["role"] == "leader")
            })
        })
    }

    /// Waits until all replicas have come as far as this, and hold the same.
    fn wait_until_all_hold(&self, revision: u64) {
        wait_for("all replicas to hold the same", || {
            let infos: Vec<Value> = (0..3).filter_map(|ordinal| self.info(ordinal)).collect();
            let hashes: BTreeSet<String> = infos
                .iter()
                .map(|info| info["rootHash"].to_string())
                .collect();
            let reached = infos
                .iter()
                .all(|info| info["revision"].as_u64() >= Some(revision));
            (infos.len() == 3 && hashes.len() == 1 && reached).then_some(())
        });
    }

    fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.path("manifests/team-a.yaml");
        let text = change(fs::read_to_string(&path).unwrap());
        let temporary = self.path("manifests/.team-a.yaml.new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Address of a Gateway, as the leader has it.
    fn address(&self, namespace: &str, name: &str, port: u16) -> String {
        wait_for("the binding", || {
            let bindings = self.ask(self.leader(), "/api/v1/bindings")?;
            let found = bindings
                .as_array()?
                .iter()
                .find(|b| b["namespace"] == namespace && b["name"] == name && b["port"] == port)?;
            Some(format!(
                "{}:{}",
                found["addresses"][0].as_str()?,
                found["publicPort"]
            ))
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let operators = self.operators.iter_mut().flatten();
        for child in operators.chain(&mut self.shards) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for n in 0..3 {
                let log = self.path(&format!("operator-{n}.log"));
                eprintln!("{}", fs::read_to_string(log).unwrap_or_default());
            }
        }
    }
}

/// What curl prints; none when it fails.
fn curl(arguments: &[&str]) -> Option<String> {
    let output = Command::new("curl")
        .args(["-s", "-m", "5"])
        .args(arguments)
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Status of a redirect's answer: it needs no backend.
fn status(address: &str, host: &str) -> String {
    let url = format!("http://{address}/");
    let host = format!("Host: {host}");
    curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", &host, &url]).unwrap_or_default()
}

#[test]
fn a_leader_that_dies_is_replaced_and_loses_nothing() {
    let mut group = Group::start();
    let address = group.address("team-a", "web", 80);
    let redirect = |address: &str| status(address, "old.team-a.test");
    wait_for("the redirect to be served", || {
        (redirect(&address) == "301").then_some(())
    });
    let first = group.leader();
    let shards = |group: &Group, leader: usize| {
        let all = group.ask(leader, "/api/v1/shards").unwrap_or_default();
        let all = all.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter(|shard| shard["connected"] == true)
            .count()
    };
    wait_for("the leader to know of both shards", || {
        (shards(&group, first) == 2).then_some(())
    });
    let before = group.info(first).unwrap()["revision"].as_u64().unwrap();
    group.wait_until_all_hold(before);

    // Nothing has changed: the next leader proposes nothing, and nobody notices.
    group.kill(first);
    let second = wait_for("another leader", || {
        let now = (0..3).find(|ordinal| {
            group
                .info(*ordinal)
                .is_some_and(|info| info["raft"]["role"] == "leader")
        });
        assert_eq!(redirect(&address), "301", "while there is no leader");
        now
    });
    assert_ne!(first, second);
    wait_for("the new leader to know of both shards", || {
        (shards(&group, second) == 2).then_some(())
    });
    let after = group.info(second).unwrap()["revision"].as_u64().unwrap();
    assert_eq!(before, after, "a change of leaders is no revision");

    // It leads indeed: a change is live on both shards.
    group.edit(|text| text.replace("old.team-a.test", "older.team-a.test"));
    wait_for("the edit to be served", || {
        (status(&address, "older.team-a.test") == "301").then_some(())
    });
    let log = group.path(&format!("operator-{second}.log"));
    wait_for("both shards to serve it", || {
        let log = fs::read_to_string(&log).unwrap();
        let line = log
            .lines()
            .find(|line| line.contains("HTTPRoute team-a/moved"));
        line.is_some_and(|line| line.contains("2/2 shards"))
            .then_some(())
    });

    // Who comes back has it too.
    group.start_operator(first);
    let revision = group.info(second).unwrap()["revision"].as_u64().unwrap();
    assert!(revision > before);
    group.wait_until_all_hold(revision);
}

#[test]
fn without_a_majority_shards_serve_on_and_changes_wait() {
    let mut group = Group::start();
    let address = group.address("team-a", "web", 80);
    wait_for("the redirect to be served", || {
        (status(&address, "old.team-a.test") == "301").then_some(())
    });
    let leader = group.leader();
    let others: Vec<usize> = (0..3).filter(|ordinal| *ordinal != leader).collect();
    let before = group.info(leader).unwrap()["revision"].as_u64().unwrap();
    group.wait_until_all_hold(before);
    for other in &others {
        group.kill(*other);
    }
    wait_for("the leader to step down", || {
        let info = group.info(leader)?;
        (info["raft"]["role"] != "leader").then_some(())
    });
    group.edit(|text| text.replace("old.team-a.test", "older.team-a.test"));
    assert_eq!(status(&address, "old.team-a.test"), "301");

    group.start_operator(others[0]);
    wait_for("the edit to be served", || {
        (status(&address, "older.team-a.test") == "301").then_some(())
    });
    assert_eq!(status(&address, "old.team-a.test"), "404");
}
