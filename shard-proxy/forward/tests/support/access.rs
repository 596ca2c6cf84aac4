//! The access log of this process, as lines of fields in alphabetical order.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::wait_for;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What was written since the first test asked for it.
pub struct AccessLog;

impl AccessLog {
    pub fn keep() -> Self {
        // A second test of the process finds it set.
        let _ = tracing::subscriber::set_global_default(Keeper);
        Self
    }

    /// Waits for a line with this text.
    pub fn has(&self, text: &str) {
        wait_for(|| {
            let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().any(|line| line.contains(text)).then_some(())
        });
    }
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "access"
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let line: Vec<String> = fields
            .0
            .iter()
            .filter(|(name, _)| **name != "message")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line.join(" "));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
