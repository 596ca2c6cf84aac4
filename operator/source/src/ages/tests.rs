#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use super::*;

fn see(ages: &mut Ages, name: &str, spec: &str, now: i64) -> Provenance {
    ages.see(&key(name), spec, Path::new("a.yaml"), now)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("", "Service", "team", name)
}

#[test]
fn ages_survive_and_the_file_stays_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(folder.path());
    let mut ages = Ages::open(path.clone());
    for round in 0..3000 {
        see(&mut ages, "a", &format!("spec {round}"), 7);
        ages.save().unwrap();
    }
    see(&mut ages, "b", "spec", 8);
    ages.save().unwrap();
    ages.forget(&key("b"));
    ages.save().unwrap();
    let lines = fs::read_to_string(&path).unwrap().lines().count();
    assert!(lines <= SLACK_LINES + 4, "{lines} lines");
    let mut again = Ages::open(path);
    let known = see(&mut again, "a", "spec 2999", 99);
    assert_eq!((known.generation, known.created_at), (3000, Timestamp(7)));
    assert_eq!(
        see(&mut again, "b", "spec", 99).created_at,
        Timestamp(99),
        "it was gone"
    );
}

#[test]
fn a_torn_line_is_left_out_and_a_corrupt_file_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(folder.path());
    let mut ages = Ages::open(path.clone());
    see(&mut ages, "a", "spec", 7);
    ages.save().unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], b"{\"group"].concat()).unwrap();
    let mut ages = Ages::open(path.clone());
    see(&mut ages, "b", "spec", 8);
    ages.save().unwrap();
    let mut ages = Ages::open(path.clone());
    for (name, created) in [("a", 7), ("b", 8)] {
        let known = see(&mut ages, name, "spec", 99);
        assert_eq!(known.created_at, Timestamp(created), "{name}");
    }
    for corrupt in [&b"not json\n"[..], b"\xff\xfe\n"] {
        fs::write(&path, corrupt).unwrap();
        let mut ages = Ages::open(path.clone());
        let aside = path.with_extension("json.corrupt");
        assert_eq!(fs::read(aside).unwrap(), corrupt);
        assert_eq!(see(&mut ages, "a", "spec", 99).created_at, Timestamp(99));
        ages.save().unwrap();
    }
}
