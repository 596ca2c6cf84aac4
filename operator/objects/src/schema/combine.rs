//! `allOf`, `anyOf`, `oneOf` and `not`: demands that a node adds to its own.

use serde_json::Value;

use super::Violation;
use super::compile::Node;

impl Node {
    pub(super) fn combined(
        &self,
        value: &Value,
        field: &mut String,
        violations: &mut Vec<Violation>,
    ) {
        for part in &self.all_of {
            part.validate(value, field, violations);
        }
        if !self.any_of.is_empty() {
            let (matched, missed) = tried(&self.any_of, value, field);
            if matched == 0 {
                violations.extend(nearest(missed));
            }
        }
        if !self.one_of.is_empty() {
            let (matched, missed) = tried(&self.one_of, value, field);
            match matched {
                0 => violations.extend(nearest(missed)),
                1 => {}
                _ => violations.push(Violation {
                    field: field.clone(),
                    message: "is of several forms that exclude each other".into(),
                }),
            }
        }
        if let Some(not) = &self.not {
            let mut missed = Vec::new();
            not.validate(value, field, &mut missed);
            if missed.is_empty() {
                violations.push(Violation {
                    field: field.clone(),
                    message: format!("must not be {value}"),
                });
            }
        }
    }
}

/// How many of the forms a value has, and for each of the others what is missing.
fn tried(forms: &[Node], value: &Value, field: &mut String) -> (usize, Vec<Vec<Violation>>) {
    let mut missed = Vec::new();
    for form in forms {
        let mut violations = Vec::new();
        form.validate(value, field, &mut violations);
        if !violations.is_empty() {
            missed.push(violations);
        }
    }
    (forms.len() - missed.len(), missed)
}

/// What to say of a value that has none of the forms: all of them where they are about one field, else the one that is nearest,
/// by the number of its violations, and of several the first.
fn nearest(missed: Vec<Vec<Violation>>) -> Vec<Violation> {
    if let [[first], rest @ ..] = missed
        .iter()
        .map(Vec::as_slice)
        .collect::<Vec<_>>()
        .as_slice()
        && rest
            .iter()
            .all(|one| one.len() == 1 && one[0].field == first.field)
    {
        let mut messages: Vec<&str> = vec![&first.message];
        messages.extend(rest.iter().map(|one| one[0].message.as_str()));
        messages.dedup();
        return vec![Violation {
            field: first.field.clone(),
            message: messages.join(", and "),
        }];
    }
    missed.into_iter().min_by_key(Vec::len).unwrap_or_default()
}
