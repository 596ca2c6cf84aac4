#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use super::*;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: team}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn update(folder: &mut Folder, changes: &[(&str, Option<&str>)]) -> Batch {
    let changes = changes
        .iter()
        .map(|(path, text)| (PathBuf::from(path), text.map(|text| Ok(text.to_owned()))))
        .collect();
    folder.update(changes, |_| false, 1000)
}

fn summary(batch: &Batch) -> Vec<String> {
    batch
        .events
        .iter()
        .map(|event| match event {
            Event::Apply(object) => format!("apply {} {}", object.key(), object.meta().generation),
            Event::Reject(rejected) => format!("reject {}", rejected.key),
            Event::Delete(key) => format!("delete {key}"),
        })
        .collect()
}

#[test]
fn only_changed_documents_become_events() {
    let mut folder = Folder::default();
    let two = [service("a", 80), service("b", 80)].join("---\n");
    let batch = update(&mut folder, &[("x.yaml", Some(&two))]);
    assert_eq!(
        summary(&batch),
        ["apply Service team/a 1", "apply Service team/b 1"]
    );
    let changed = [service("a", 80), service("b", 81)].join("---\n");
    let batch = update(&mut folder, &[("x.yaml", Some(&changed))]);
    assert_eq!(summary(&batch), ["apply Service team/b 2"]);
    let batch = update(&mut folder, &[("x.yaml", Some(&service("b", 81)))]);
    assert_eq!(summary(&batch), ["delete Service team/a"]);
    let batch = update(&mut folder, &[("x.yaml", None)]);
    assert_eq!(summary(&batch), ["delete Service team/b"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_objects_and_names_the_line() {
    let mut folder = Folder::default();
    update(&mut folder, &[("x.yaml", Some(&service("a", 80)))]);
    let batch = update(
        &mut folder,
        &[("x.yaml", Some("apiVersion: v1\nkind: [\n"))],
    );
    assert_eq!(summary(&batch), Vec::<String>::new());
    assert_eq!(batch.problems.len(), 1);
    assert!(
        batch.problems[0].to_string().starts_with("x.yaml:"),
        "{}",
        batch.problems[0]
    );
    let batch = update(&mut folder, &[("x.yaml", Some(&service("a", 80)))]);
    assert!(batch.problems.is_empty() && batch.events.is_empty());
}

#[test]
fn of_two_files_with_one_object_the_first_counts_until_it_lets_go() {
    let mut folder = Folder::default();
    update(&mut folder, &[("b.yaml", Some(&service("a", 80)))]);
    let batch = update(&mut folder, &[("a.yaml", Some(&service("a", 99)))]);
    assert!(batch.events.is_empty());
    assert_eq!(
        batch.problems[0].to_string(),
        "a.yaml:1: Service team/a: is in b.yaml as well, which counts; remove one"
    );
    let batch = update(&mut folder, &[("b.yaml", None)]);
    assert_eq!(summary(&batch), ["apply Service team/a 2"]);
    assert!(batch.problems.is_empty());
}

#[test]
fn of_two_files_with_one_object_the_same_counts_after_a_restart() {
    let mut folder = Folder::default();
    update(&mut folder, &[("b.yaml", Some(&service("a", 80)))]);
    update(&mut folder, &[("a.yaml", Some(&service("a", 99)))]);
    let both = [
        ("a.yaml", Some(service("a", 99))),
        ("b.yaml", Some(service("a", 80))),
    ];
    let both = both.each_ref().map(|(path, text)| (*path, text.as_deref()));
    let mut again = Folder::new(std::mem::take(&mut folder.ages));
    let batch = update(&mut again, &both);
    assert_eq!(summary(&batch), ["apply Service team/a 1"]);
    assert_eq!(
        batch.problems[0].to_string(),
        "a.yaml:1: Service team/a: is in b.yaml as well, which counts; remove one"
    );
    // The file that it was in has it no longer.
    let mut again = Folder::new(std::mem::take(&mut again.ages));
    let batch = update(
        &mut again,
        &[both[0], ("b.yaml", Some(&service("other", 80)))],
    );
    assert_eq!(
        summary(&batch),
        ["apply Service team/other 1", "apply Service team/a 2"]
    );
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
}

#[test]
fn an_object_that_moves_while_a_third_file_has_it_too_is_held_once() {
    let mut folder = Folder::default();
    let text = service("a", 80);
    update(&mut folder, &[("b.yaml", Some(&text))]);
    update(&mut folder, &[("c.yaml", Some(&text))]);
    let batch = update(&mut folder, &[("b.yaml", None), ("d.yaml", Some(&text))]);
    assert!(
        batch.problems[0]
            .to_string()
            .contains("is in d.yaml as well"),
        "{:?}",
        batch.problems
    );
    let batch = update(&mut folder, &[("d.yaml", None)]);
    assert_eq!(summary(&batch), ["apply Service team/a 1"]);
    assert!(batch.problems.is_empty());
}

#[test]
fn a_misnamed_document_keeps_what_it_may_be_meant_to_be_and_nothing_else() {
    let mut folder = Folder::default();
    let file = |documents: &[&str]| documents.join("---\n");
    let (a, b, c) = (service("a", 80), service("b", 80), service("c", 80));
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: team}\n";
    let misnamed = service("Bad", 80);
    let mut now = |documents: &[&str]| {
        let batch = update(&mut folder, &[("x.yaml", Some(&file(documents)))]);
        (summary(&batch), batch.problems.len())
    };
    assert_eq!(now(&[&a, &b, map]).0.len(), 3);
    // A name is misspelt while a document of another kind goes.
    assert_eq!(
        now(&[&misnamed, &b]),
        (vec!["delete ConfigMap team/m".into()], 1)
    );
    // What goes while it stays wrong is not what it was meant to be.
    assert_eq!(now(&[&misnamed]), (vec!["delete Service team/b".into()], 1));
    assert_eq!(
        now(&[&misnamed, &c]),
        (vec!["apply Service team/c 1".into()], 1)
    );
    // Mended, it is a change; gone, a deletion.
    assert_eq!(
        now(&[&service("a", 81), &c]),
        (vec!["apply Service team/a 2".into()], 0)
    );
    assert_eq!(now(&["kind: Service\n", &c]), (vec![], 1));
    assert_eq!(now(&[&c]), (vec!["delete Service team/a".into()], 0));
}

#[test]
fn a_wrong_field_is_one_refused_object_with_file_object_field_and_fix() {
    let mut folder = Folder::default();
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: team}\nspec:\n  rules:\n  - matches: [{methud: GET}]\n";
    let text = [route.to_owned(), service("a", 80)].join("---\n");
    let batch = update(&mut folder, &[("x.yaml", Some(&text))]);
    assert_eq!(
        summary(&batch),
        ["reject HTTPRoute team/r", "apply Service team/a 1"]
    );
    assert_eq!(
        batch.problems[0].to_string(),
        "x.yaml:1: HTTPRoute team/r: spec.rules[0].matches[0].methud: unknown field; did you mean method?"
    );
}

#[test]
fn a_kind_that_is_not_looked_at_is_a_note_and_no_event() {
    let mut folder = Folder::default();
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: team}\n";
    let batch = update(&mut folder, &[("x.yaml", Some(text))]);
    assert!(batch.events.is_empty() && !batch.problems[0].is_error);
    let batch = update(&mut folder, &[("x.yaml", None)]);
    assert!(batch.events.is_empty() && batch.problems.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_objects() {
    let mut folder = Folder::default();
    update(&mut folder, &[("x.yaml", Some(&service("a", 80)))]);
    let change = (PathBuf::from("x.yaml"), Some(Err("cannot be read".into())));
    let batch = folder.update(vec![change], |_| false, 1000);
    assert!(batch.events.is_empty());
    assert_eq!(batch.problems[0].to_string(), "x.yaml:1: cannot be read");
    let batch = update(&mut folder, &[("x.yaml", None)]);
    assert_eq!(summary(&batch), ["delete Service team/a"]);
}
