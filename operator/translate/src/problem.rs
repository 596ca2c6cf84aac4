//! What is wrong with an object, before it becomes a condition.

/// A reason of a condition and the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Problems spelled out in one message; the rest is counted.
const LISTED_MAX: usize = 5;

/// One line for several messages.
pub(crate) fn join<'a>(messages: impl IntoIterator<Item = &'a str>) -> String {
    let messages: Vec<&str> = messages.into_iter().collect();
    let mut text = messages
        .iter()
        .take(LISTED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join("; ");
    if messages.len() > LISTED_MAX {
        text.push_str(&format!("; and {} more", messages.len() - LISTED_MAX));
    }
    text
}
