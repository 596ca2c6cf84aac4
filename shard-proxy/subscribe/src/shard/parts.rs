//! Messages that come in parts: nothing counts before the last.

use api_wire::delivery;

/// Bytes of the parts of one message; with more, they are dropped, and its last part asks for everything anew.
const BYTES_MAX: usize = 512 * 1024 * 1024;

/// Parts of the message that is on its way; the operator sends one after the other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    of: Option<(delivery::GatewayKey, u64)>,
    ops: Vec<delivery::Op>,
    bytes: usize,
}

impl Parts {
    /// Takes a part; gives the whole once it is there.
    pub(super) fn facts(&mut self, mut message: delivery::Facts) -> Option<delivery::Facts> {
        self.of(None);
        message.ops = self.take(message.ops, message.more)?;
        Some(message)
    }

    /// As [`Parts::facts`].
    pub(super) fn prepare(&mut self, mut message: delivery::Prepare) -> Option<delivery::Prepare> {
        let gateway = message.gateway.clone().unwrap_or_default();
        self.of(Some((gateway, message.revision)));
        message.ops = self.take(message.ops, message.more)?;
        Some(message)
    }

    /// What is not gone on with is dropped.
    fn of(&mut self, of: Option<(delivery::GatewayKey, u64)>) {
        if self.of != of {
            *self = Self {
                of,
                ..Self::default()
            };
        }
    }

    fn take(&mut self, ops: Vec<delivery::Op>, more: bool) -> Option<Vec<delivery::Op>> {
        if !more && self.ops.is_empty() {
            return Some(ops);
        }
        let size = |op: &delivery::Op| op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        self.bytes += ops.iter().map(size).sum::<usize>();
        if self.bytes <= BYTES_MAX {
            self.ops.extend(ops);
        } else {
            tracing::error!(bytes = self.bytes, "message is too large and is left out");
            self.ops = Vec::new();
        }
        if more {
            return None;
        }
        let ops = std::mem::take(&mut self.ops);
        *self = Self::default();
        Some(ops)
    }
}
