//! State on disk that is damaged, and a disk that is full.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use perf_e2e::{Up, wait_for};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn a_damaged_raft_log_is_refused_with_the_way_out_while_shards_serve_on() {
    let mut up = Up::start("quickstart");
    // A second frame, so that the damage is not in the last one.
    up.edit("team-a.yaml", |text| {
        text.replace("weight: 80", "weight: 0")
    });
    up.wait_for_line("HTTPRoute team-a/shop  2/2 shards");
    let (address, port, _) = up.binding("team-b", "api", 8080);
    let api = format!("curl -s -m 5 -f -H 'Host: api.team-b.test' http://{address}:{port}/");
    let log = files(&up.data.join("raft"))
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 1_000_000))
        .unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let first = bytes.iter().skip(512).position(|byte| *byte != 0).unwrap() + 512;
    bytes[first + 64] ^= 0x10;
    let operator = up.operator().unwrap()["pid"].as_u64().unwrap();
    fs::write(&log, &bytes).unwrap();
    up.shell(&format!("kill -9 {operator}"));
    let said = up.wait_for_line("move it aside");
    assert!(said.contains("raft"), "{said}");
    up.shell(&api);
    up.stop();

    // The way out that it names: everything comes from the manifests, and shards follow the new revisions.
    fs::rename(up.data.join("raft"), up.data.join("raft.aside")).unwrap();
    up.run();
    up.shell(&api);
    up.edit("team-a.yaml", |text| {
        text.replacen("weight: 0", "weight: 1", 1)
    });
    up.wait_for_line("HTTPRoute team-a/shop  2/2 shards");
    let (address, port, _) = up.binding("team-a", "web", 80);
    wait_for("the edit to be served", || {
        let answer = up.shell(&format!(
            "curl -s -m 5 -H 'Host: shop.team-a.test' http://{address}:{port}/ || true"
        ));
        answer.contains("shop-v1").then_some(())
    });
}

#[test]
fn a_full_disk_stops_no_traffic_and_what_waited_is_written_when_there_is_room() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m", "shardway-e2e"])
        .arg(mount.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        let reason = "SKIPPED: a file system of 48 MiB cannot be mounted here (needs root)";
        writeln!(io::stderr(), "{reason}").unwrap(); // not captured
        return;
    }
    let _unmount = Unmount(mount.path().to_owned());
    let mut up = Up::start_in("quickstart", mount.path().join("data"));
    let (address, port, _) = up.binding("team-a", "web", 80);
    let web = format!("curl -s -m 5 -f -H 'Host: shop.team-a.test' http://{address}:{port}/");
    // Fill it to the last byte.
    let filler = mount.path().join("filler");
    up.shell(&format!(
        "head -c 60000000 /dev/zero > {} 2>/dev/null || true",
        filler.display()
    ));
    up.edit("team-a.yaml", |text| {
        text.replace("weight: 80", "weight: 0")
    });
    wait_for("an error that names the disk", || {
        let said = up.printed();
        (said.contains("No space left") || said.contains("status is not on disk")).then_some(())
    });
    for _ in 0..20 {
        up.shell(&web);
    }
    fs::remove_file(&filler).unwrap();
    // Served, and on disk again.
    wait_for("the edit to be served", || {
        up.shell(&web).contains("shop-v2").then_some(())
    });
    let status = up.data.join("status/HTTPRoute/team-a/shop.yaml");
    wait_for("the status file", || {
        let text = fs::read_to_string(&status).ok()?;
        text.contains("observedGeneration: 2").then_some(())
    });
    assert_eq!(up.interrupt(), Some(0), "{}", up.printed());
    drop(up);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
