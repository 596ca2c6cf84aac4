//! Events as they travel.

use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{decode, encode};
use api_wire::peer::{self, RelayedEvent, relayed_event};
use operator_distribute::{Event, Refusal};

/// Longest message of a shard that is relayed, bytes; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

pub(super) fn to_wire(sequence: u64, event: Event) -> RelayedEvent {
    let served = |shard: ShardId, gateway: &GatewayKey, revision: Revision| peer::Served {
        shard: shard.0,
        gateway: Some(key_to_wire(gateway)),
        revision: revision.0,
    };
    let event = match event {
        Event::Restarted => relayed_event::Event::Restarted(peer::Restarted {}),
        Event::Connected(shard) => {
            relayed_event::Event::Connected(peer::Connected { shard: shard.0 })
        }
        Event::Disconnected(shard) => {
            relayed_event::Event::Disconnected(peer::Disconnected { shard: shard.0 })
        }
        Event::Prepared(shard, gateway, revision) => {
            relayed_event::Event::Prepared(served(shard, &gateway, revision))
        }
        Event::Acknowledged(shard, gateway, revision) => {
            relayed_event::Event::Acknowledged(served(shard, &gateway, revision))
        }
        Event::Busy(shard, gateway, revision, by) => relayed_event::Event::Busy(peer::Busy {
            shard: shard.0,
            gateway: Some(key_to_wire(&gateway)),
            revision: revision.0,
            extend_ms: u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
        }),
        Event::Refused(refusal) => relayed_event::Event::Refused(peer::Refused {
            shard: refusal.shard.0,
            gateway: Some(key_to_wire(&refusal.gateway)),
            revision: refusal.revision.0,
            listener: refusal.listener,
            entry: refusal.entry.map(|entry| encode(&entry).into()),
            port_unavailable: refusal.port_unavailable,
            message: cut(refusal.message),
        }),
    };
    RelayedEvent {
        sequence,
        event: Some(event),
    }
}

/// Reads an event; none when it lacks something, or is of a later version.
pub(super) fn from_wire(event: relayed_event::Event) -> Option<Event> {
    let event = match event {
        relayed_event::Event::Restarted(_) => Event::Restarted,
        relayed_event::Event::Connected(m) => Event::Connected(ShardId(m.shard)),
        relayed_event::Event::Disconnected(m) => Event::Disconnected(ShardId(m.shard)),
        relayed_event::Event::Prepared(m) => Event::Prepared(
            ShardId(m.shard),
            key_from_wire(m.gateway)?,
            Revision(m.revision),
        ),
        relayed_event::Event::Acknowledged(m) => Event::Acknowledged(
            ShardId(m.shard),
            key_from_wire(m.gateway)?,
            Revision(m.revision),
        ),
        relayed_event::Event::Busy(m) => Event::Busy(
            ShardId(m.shard),
            key_from_wire(m.gateway)?,
            Revision(m.revision),
            Duration::from_millis(m.extend_ms),
        ),
        relayed_event::Event::Refused(m) => Event::Refused(Refusal {
            shard: ShardId(m.shard),
            gateway: key_from_wire(m.gateway)?,
            revision: Revision(m.revision),
            listener: m.listener,
            // One that is not understood here is none: the revision is refused all the same.
            entry: m.entry.and_then(|entry| decode("entry key", &entry).ok()),
            port_unavailable: m.port_unavailable,
            message: m.message,
        }),
    };
    Some(event)
}

fn key_to_wire(key: &GatewayKey) -> peer::GatewayKey {
    peer::GatewayKey {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn key_from_wire(key: Option<peer::GatewayKey>) -> Option<GatewayKey> {
    key.map(|key| GatewayKey {
        namespace: key.namespace,
        name: key.name,
    })
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api_snapshot::GatewayEntryKey;
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let shard = any::<u32>().prop_map(ShardId);
        let name = "[a-z]{1,5}";
        let gateway = (name, name).prop_map(|(namespace, name)| GatewayKey { namespace, name });
        let place = (shard, gateway, any::<u64>().prop_map(Revision));
        let entry = prop::option::of(Just(GatewayEntryKey::Gateway));
        let refused = (prop::option::of(".{0,9}"), entry, any::<bool>(), ".{0,99}");
        (0..7u8, place, any::<u32>(), refused).prop_map(|(kind, place, ms, refused)| {
            let (shard, gateway, revision) = place;
            match kind {
                0 => Event::Restarted,
                1 => Event::Connected(shard),
                2 => Event::Disconnected(shard),
                3 => Event::Prepared(shard, gateway, revision),
                4 => Event::Acknowledged(shard, gateway, revision),
                5 => Event::Busy(shard, gateway, revision, Duration::from_millis(ms.into())),
                _ => Event::Refused(Refusal {
                    shard,
                    gateway,
                    revision,
                    listener: refused.0,
                    entry: refused.1,
                    port_unavailable: refused.2,
                    message: refused.3,
                }),
            }
        })
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were(event in event(), sequence in any::<u64>()) {
            let wire = to_wire(sequence, event.clone());
            prop_assert_eq!(wire.sequence, sequence);
            prop_assert_eq!(from_wire(wire.event.unwrap()), Some(event));
        }
    }

    #[test]
    fn what_lacks_a_gateway_is_no_event_and_a_long_message_is_cut() {
        let lacking = relayed_event::Event::Prepared(peer::Served::default());
        assert_eq!(from_wire(lacking), None);
        let long = cut("é".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(long.len(), MESSAGE_BYTES_MAX);
    }
}
