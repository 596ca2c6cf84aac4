#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use std::os::unix::fs::symlink;

use super::*;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: team}\nspec: {ports: [{port: 80}]}\n";

async fn next(source: &mut DirSource) -> Batch {
    tokio::time::timeout(Duration::from_secs(10), source.next())
        .await
        .unwrap()
}

#[tokio::test]
async fn atomic_saves_and_deletions_are_seen_and_ages_survive() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
    let mut source = DirSource::open(root.path(), data.path()).unwrap();
    assert_eq!(source.initial().events.len(), 1);
    fs::write(root.path().join(".a.yaml.swp"), SERVICE.replace("80", "81")).unwrap();
    fs::rename(root.path().join(".a.yaml.swp"), root.path().join("a.yaml")).unwrap();
    let batch = next(&mut source).await;
    assert_eq!(batch.events.len(), 1);
    drop(source);
    let mut source = DirSource::open(root.path(), data.path()).unwrap();
    let batch = source.initial();
    let operator_objects::spec::Event::Apply(object) = &batch.events[0] else {
        panic!("{batch:?}")
    };
    assert_eq!(object.meta().generation, 2);
    fs::remove_file(root.path().join("a.yaml")).unwrap();
    assert_eq!(next(&mut source).await.changed.len(), 1);
}

#[tokio::test]
async fn a_swapped_link_as_in_a_mounted_config_map_is_one_change() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (folder, port) in [("..one", "80"), ("..two", "81")] {
        fs::create_dir(root.path().join(folder)).unwrap();
        fs::write(
            root.path().join(folder).join("a.yaml"),
            SERVICE.replace("80", port),
        )
        .unwrap();
    }
    symlink("..one", root.path().join("..data")).unwrap();
    symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
    let mut source = DirSource::open(root.path(), data.path()).unwrap();
    assert_eq!(source.initial().changed.len(), 1);
    symlink("..two", root.path().join("..data_tmp")).unwrap();
    fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
    assert_eq!(next(&mut source).await.changed.len(), 1);
}

#[tokio::test]
async fn a_folder_in_the_folder_is_read() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = DirSource::open(root.path(), data.path()).unwrap();
    assert!(source.initial().events.is_empty());
    fs::create_dir_all(root.path().join("team/deep")).unwrap();
    fs::write(root.path().join("team/deep/a.yml"), SERVICE).unwrap();
    assert_eq!(next(&mut source).await.changed.len(), 1);
}

#[tokio::test]
async fn a_caller_who_stops_waiting_early_loses_no_change() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = DirSource::open(root.path(), data.path()).unwrap();
    assert!(source.initial().events.is_empty());
    fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        // Shorter than the quiet time that ends a burst.
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(1), source.next()).await {
            assert_eq!(batch.changed.len(), 1);
            return;
        }
        assert!(Instant::now() < until, "the change was lost");
    }
}

/// Waits until nothing is said for a while, and counts what was.
async fn drain(source: &mut DirSource) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Ok(batch) = tokio::time::timeout(Duration::from_millis(300), source.next()).await {
        batches.push(batch);
    }
    batches
}

fn opened(root: &Path) -> (DirSource, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut source = DirSource::open(root, data.path()).unwrap();
    source.initial();
    (source, data)
}

#[tokio::test]
async fn hidden_folders_are_not_read_neither_by_a_scan_nor_by_an_event() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(".git")).unwrap();
    let (mut source, _data) = opened(root.path());
    fs::write(root.path().join(".git/config.yaml"), SERVICE).unwrap();
    assert!(drain(&mut source).await.is_empty());
}

#[tokio::test]
async fn a_config_map_whose_new_folder_is_written_while_we_watch_is_no_duplicate() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("..one")).unwrap();
    fs::write(root.path().join("..one/a.yaml"), SERVICE).unwrap();
    symlink("..one", root.path().join("..data")).unwrap();
    symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
    let (mut source, _data) = opened(root.path());
    fs::create_dir(root.path().join("..two")).unwrap();
    assert!(drain(&mut source).await.is_empty());
    let text = SERVICE.replace("80", "81");
    fs::write(root.path().join("..two/a.yaml"), text).unwrap();
    assert!(drain(&mut source).await.is_empty());
    symlink("..two", root.path().join("..data_tmp")).unwrap();
    fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
    let batch = next(&mut source).await;
    assert_eq!((batch.events.len(), batch.problems.len()), (1, 0));
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_read_by_half() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, SERVICE).unwrap();
    let (mut source, _data) = opened(root.path());
    // Opening truncates the file: read now, its objects would be gone.
    let mut file = fs::File::create(&path).unwrap();
    let waited = tokio::time::timeout(BURST_MAX * 4, source.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    file.write_all(SERVICE.replace("80", "81").as_bytes())
        .unwrap();
    drop(file);
    let batch = next(&mut source).await;
    assert!(
        matches!(batch.events[..], [operator_objects::spec::Event::Apply(_)]),
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_second_save_of_the_same_size_in_the_same_moment_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, SERVICE).unwrap();
    let (mut source, _data) = opened(root.path());
    for port in ["81", "82", "83", "84"] {
        fs::write(&path, SERVICE.replace("80", port)).unwrap();
        let batch = next(&mut source).await;
        assert_eq!(batch.changed.len(), 1, "port {port}");
    }
}

#[tokio::test]
async fn a_burst_of_files_is_few_batches() {
    let root = tempfile::tempdir().unwrap();
    let (mut source, _data) = opened(root.path());
    for number in 0..200 {
        let text = SERVICE.replace("name: a", &format!("name: s{number}"));
        fs::write(root.path().join(format!("{number}.yaml")), text).unwrap();
    }
    let batches = drain(&mut source).await;
    let changed: usize = batches.iter().map(|batch| batch.changed.len()).sum();
    assert_eq!(changed, 200);
    assert!(batches.len() <= 20, "{} batches", batches.len());
}

#[tokio::test]
async fn a_renamed_file_is_the_same_object_and_nothing_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [("m.yaml", "a.yaml"), ("a.yaml", "z.yaml")] {
        fs::write(root.path().join(from), SERVICE).unwrap();
        let (mut source, _data) = opened(root.path());
        fs::rename(root.path().join(from), root.path().join(to)).unwrap();
        let batch = next(&mut source).await;
        assert!(
            matches!(&batch.events[..], [operator_objects::spec::Event::Apply(object)] if object.meta().generation == 1),
            "{batch:?}"
        );
        assert!(batch.problems.is_empty());
    }
}

#[tokio::test]
async fn a_save_that_takes_the_file_away_or_empties_it_first_deletes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, SERVICE).unwrap();
    let (mut source, _data) = opened(root.path());
    let key = api::ObjectKey::new("", "Service", "team", "a");
    let uid = source.seen().get(&key).unwrap().uid;
    source.doubts.believed_after = Duration::from_secs(10);
    for (port, is_emptied) in [("81", false), ("82", true), ("83", false)] {
        if is_emptied {
            fs::write(&path, "# to be written\n").unwrap();
        } else {
            fs::rename(&path, root.path().join("a.yaml~")).unwrap();
        }
        // It is looked at, alone, and not believed.
        let waited = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
        assert!(waited.is_err(), "{waited:?}");
        fs::write(&path, SERVICE.replace("80", port)).unwrap();
        let batch = next(&mut source).await;
        assert!(
            matches!(batch.events[..], [operator_objects::spec::Event::Apply(_)]),
            "{batch:?}"
        );
    }
    let seen = source.seen().get(&key).unwrap();
    assert_eq!((seen.uid, seen.generation), (uid, 4));
    // What stays away is gone.
    source.doubts.believed_after = Duration::from_millis(10);
    fs::remove_file(&path).unwrap();
    let batch = next(&mut source).await;
    assert!(
        matches!(batch.events[..], [operator_objects::spec::Event::Delete(_)]),
        "{batch:?}"
    );
    assert_eq!(source.seen().get(&key), None);
}

#[tokio::test]
async fn a_file_that_stays_empty_has_lost_its_objects() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, SERVICE).unwrap();
    let (mut source, _data) = opened(root.path());
    fs::write(&path, "---\n").unwrap();
    let batch = next(&mut source).await;
    assert!(
        matches!(batch.events[..], [operator_objects::spec::Event::Delete(_)]),
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_new_file_is_looked_at_at_once_while_another_is_doubted() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
    let (mut source, _data) = opened(root.path());
    fs::remove_file(root.path().join("a.yaml")).unwrap();
    let text = SERVICE.replace("name: a", "name: b");
    fs::write(root.path().join(".b"), text).unwrap();
    fs::rename(root.path().join(".b"), root.path().join("b.yaml")).unwrap();
    let batch = next(&mut source).await;
    let names: Vec<String> = batch.changed.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Service team/b"]);
    let batch = next(&mut source).await;
    let names: Vec<String> = batch.changed.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Service team/a"]);
}

#[tokio::test]
async fn a_folder_behind_a_link_that_is_swapped_is_followed() {
    let above = tempfile::tempdir().unwrap();
    for (folder, port) in [("one", "80"), ("two", "81")] {
        fs::create_dir(above.path().join(folder)).unwrap();
        let text = SERVICE.replace("80", port);
        fs::write(above.path().join(folder).join("a.yaml"), text).unwrap();
    }
    let link = above.path().join("current");
    symlink("one", &link).unwrap();
    let (mut source, _data) = opened(&link);
    symlink("two", above.path().join("next")).unwrap();
    fs::rename(above.path().join("next"), &link).unwrap();
    let batch = next(&mut source).await;
    assert_eq!(batch.changed.len(), 1);
    // Who asks where the folder is finds the same.
    let found = documents(source.given()).unwrap();
    assert_eq!(found[0].object["spec"]["ports"][0]["port"], 81);
    // And it is the new one that is watched now.
    let text = SERVICE.replace("80", "82");
    fs::write(above.path().join("two/a.yaml"), text).unwrap();
    assert_eq!(next(&mut source).await.changed.len(), 1);
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_its_objects_until_it_is_back() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("manifests");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), SERVICE).unwrap();
    let (mut source, _data) = opened(&root);
    fs::rename(&root, above.path().join("aside")).unwrap();
    let said = drain(&mut source).await;
    assert!(said.iter().all(|batch| batch.events.is_empty()), "{said:?}");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), SERVICE.replace("80", "81")).unwrap();
    loop {
        let batch = next(&mut source).await;
        if !batch.events.is_empty() {
            assert!(
                matches!(batch.events[..], [operator_objects::spec::Event::Apply(_)]),
                "{batch:?}"
            );
            break;
        }
    }
}

#[tokio::test]
async fn without_events_of_the_kernel_the_folder_is_looked_at_at_intervals() {
    let root = tempfile::tempdir().unwrap();
    let (mut source, _data) = opened(root.path());
    let (sender, wake) = mpsc::channel(1);
    (source.watcher, source.wake, source.sender) = (None, wake, sender);
    source.rescan = Duration::from_millis(20);
    source.rescan_at = Instant::now();
    fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
    assert_eq!(next(&mut source).await.changed.len(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let data = tempfile::tempdir().unwrap();
    let missing = data.path().join("missing");
    let error = DirSource::open(&missing, data.path()).err().unwrap();
    assert!(error.to_string().ends_with("missing"), "{error}");
    assert!(load_folder(&missing).is_err());
}
