//! `x-kubernetes-validations`: rules in the Common Expression Language.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use cel::extractors::This;
use cel::{Context, ExecutionError, Program};
use regex::Regex;
use serde_json::Value;

use super::Violation;
use super::compile::Node;

/// A rule.
pub(crate) struct Rule {
    text: String,
    message: String,
    program: Option<Program>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Rule {
    /// Compiles a rule. Rules about a change (`oldSelf`) are for an API server and left out.
    pub(super) fn compile(rule: &Value) -> Option<Self> {
        let text = rule.get("rule")?.as_str()?.to_owned();
        if text.contains("oldSelf") {
            return None;
        }
        let message = rule
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or(&text)
            .to_owned();
        // The parser of the library may panic on what it does not know; such a rule is not evaluated.
        let program = std::panic::catch_unwind(|| Program::compile(&text).ok())
            .ok()
            .flatten();
        Some(Self {
            text,
            message,
            program,
        })
    }

    pub(super) fn is_evaluated(&self) -> bool {
        self.program.is_some()
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the value keeps the rule; none when it cannot be said, which [`failed`] then tells.
    fn holds(&self, context: &Context<'_, '_>) -> Option<bool> {
        let program = self.program.as_ref()?;
        // As in `compile`: one rule must not take the operator down.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| program.execute(context)));
        if let Ok(Ok(cel::Value::Bool(holds))) = result {
            return Some(holds);
        }
        let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
        failed.insert(self.text.clone());
        None
    }
}

thread_local! {
    /// The functions of the language: to register them costs more than most rules.
    static FUNCTIONS: Context<'static, 'static> = functions();
    /// Patterns of rules, compiled. Bounded by the rules that there are: patterns are written in schemas, not in objects.
    static PATTERNS: RefCell<HashMap<String, Option<Regex>>> = RefCell::default();
}

fn functions() -> Context<'static, 'static> {
    let mut context = Context::default();
    let added = context.add_function("matches", matches);
    debug_assert!(added.is_ok(), "the library's own matches is left out");
    context
}

/// Whether a pattern is found in a text; a pattern that cannot be compiled fails the evaluation.
fn matches(This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<bool, ExecutionError> {
    PATTERNS.with_borrow_mut(|patterns| {
        if !patterns.contains_key(&**pattern) {
            patterns.insert(pattern.to_string(), Regex::new(&pattern).ok());
        }
        let regex = patterns.get(&**pattern).and_then(Option::as_ref);
        let compiled = regex.map(|regex| regex.is_match(&text));
        compiled.ok_or_else(|| ExecutionError::FunctionError {
            function: "matches".to_owned(),
            message: format!("{pattern:?} is no regular expression"),
        })
    })
}

/// Rules that compiled and then could not be evaluated for some object. Bounded by the rules that there are.
static FAILED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Rules that could not be evaluated for some object so far.
pub(super) fn failed() -> BTreeSet<String> {
    FAILED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Words that are no identifiers in the language; a property of such a name is `__name__` in rules.
///
/// Source: Kubernetes, "CEL in Kubernetes", escaping.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a property as rules write it.
fn escaped_name(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

impl Node {
    /// A value as rules see it: properties under their escaped names, keys of maps as they are.
    fn escaped(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| match self.properties.get(name) {
                    Some(node) => (escaped_name(name), node.escaped(value)),
                    None => {
                        let value = self
                            .additional
                            .as_ref()
                            .map_or_else(|| value.clone(), |node| node.escaped(value));
                        (name.clone(), value)
                    }
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Array(items) => match &self.items {
                Some(node) => items
                    .iter()
                    .map(|item| node.escaped(item))
                    .collect::<Vec<_>>()
                    .into(),
                None => value.clone(),
            },
            other => other.clone(),
        }
    }

    /// Evaluates all rules of this node and those below.
    pub(super) fn evaluate(
        &self,
        value: &Value,
        field: &mut String,
        violations: &mut Vec<Violation>,
    ) {
        if !self.rules.is_empty()
            && let Ok(own) = cel::to_value(self.escaped(value))
        {
            FUNCTIONS.with(|functions| {
                let mut context = functions.new_inner_scope();
                context.add_variable_from_value("self", own);
                for rule in &self.rules {
                    if rule.holds(&context) == Some(false) {
                        violations.push(Violation {
                            field: field.clone(),
                            message: rule.message.clone(),
                        });
                    }
                }
            });
        }
        let length = field.len();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let Some(node) = self.properties.get(name).or(self.additional.as_deref())
                    else {
                        continue;
                    };
                    if !field.is_empty() {
                        field.push('.');
                    }
                    field.push_str(name);
                    node.evaluate(value, field, violations);
                    field.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(node) = &self.items else { return };
                for (position, value) in items.iter().enumerate() {
                    let _ = write!(field, "[{position}]"); // writing to a String cannot fail
                    node.evaluate(value, field, violations);
                    field.truncate(length);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use serde_json::json;

    use super::*;

    /// Whether a rule holds for a text.
    fn holds(rule: &str, text: &str) -> Option<bool> {
        let rule = Rule::compile(&json!({ "rule": rule })).unwrap();
        FUNCTIONS.with(|functions| {
            let mut context = functions.new_inner_scope();
            context.add_variable_from_value("self", text);
            rule.holds(&context)
        })
    }

    #[test]
    fn patterns_are_found_in_texts_as_a_method_and_as_a_function() {
        for rule in ["self.matches('^[a-z]+$')", "matches(self, '^[a-z]+$')"] {
            assert_eq!(holds(rule, "abc"), Some(true));
            assert_eq!(holds(rule, "a b"), Some(false));
            assert_eq!(holds(rule, "abcd"), Some(true), "the compiled one, again");
        }
        assert_eq!(holds("self.matches('(')", "abc"), None);
    }
}
