//! What the shard says.

use api::{GatewayKey, Revision};
use api_wire::delivery::{self, FromShard, from_shard};

use crate::PrepareFailure;

pub(super) fn wire(message: from_shard::Message) -> FromShard {
    FromShard {
        message: Some(message),
    }
}

pub(super) fn prepared(gateway: &GatewayKey, revision: Revision) -> FromShard {
    wire(from_shard::Message::Prepared(delivery::Prepared {
        gateway: Some(gateway.into()),
        revision: revision.0,
    }))
}

pub(super) fn acknowledged(gateway: &GatewayKey, revision: Revision) -> FromShard {
    wire(from_shard::Message::Acknowledged(delivery::Acknowledged {
        gateway: Some(gateway.into()),
        revision: revision.0,
    }))
}

pub(super) fn resync(gateway: Option<&GatewayKey>, active: Revision, reason: String) -> FromShard {
    wire(from_shard::Message::Resync(delivery::Resync {
        gateway: gateway.map(Into::into),
        reason,
        active: active.0,
    }))
}

/// The table cannot be served.
pub(super) fn failed(
    gateway: &GatewayKey,
    revision: Revision,
    failure: PrepareFailure,
) -> FromShard {
    let reason = if failure.port_unavailable {
        delivery::RefusedReason::PortUnavailable
    } else {
        delivery::RefusedReason::Unreadable
    };
    wire(from_shard::Message::Refused(delivery::Refused {
        gateway: Some(gateway.into()),
        revision: revision.0,
        listener: failure.listener.unwrap_or_default(),
        reason: reason.into(),
        message: failure.message,
        entry: Vec::new(),
    }))
}

/// An entry is not understood.
pub(super) fn unreadable(
    gateway: &GatewayKey,
    revision: Revision,
    entry: Vec<u8>,
    message: String,
) -> FromShard {
    wire(from_shard::Message::Refused(delivery::Refused {
        gateway: Some(gateway.into()),
        revision: revision.0,
        listener: String::new(),
        reason: delivery::RefusedReason::Unreadable.into(),
        message,
        entry,
    }))
}
