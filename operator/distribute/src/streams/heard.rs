//! What shards say, as events; questions are answered here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{Revision, ShardId};
use api_snapshot::decode;
use api_wire::delivery::{self, FromShard, from_shard};
use api_wire::gateway_key;

use super::{Streams, messages};
use crate::event::{Event, Refusal};

impl Streams {
    /// Takes what a shard says.
    pub(crate) fn message(
        &mut self,
        shard: ShardId,
        message: FromShard,
        now: Duration,
    ) -> Vec<Event> {
        let event = match message.message {
            Some(from_shard::Message::Prepared(m)) => gateway_key(m.gateway)
                .map(|gateway| Event::Prepared(shard, gateway, Revision(m.revision))),
            Some(from_shard::Message::Acknowledged(m)) => gateway_key(m.gateway)
                .map(|gateway| Event::Acknowledged(shard, gateway, Revision(m.revision))),
            Some(from_shard::Message::Busy(m)) => gateway_key(m.gateway).map(|gateway| {
                let by = Duration::from_millis(u64::from(m.extend_ms));
                Event::Busy(shard, gateway, Revision(m.revision), by)
            }),
            Some(from_shard::Message::Refused(m)) => {
                let port_unavailable = m.reason() == delivery::RefusedReason::PortUnavailable;
                gateway_key(m.gateway).map(|gateway| {
                    Event::Refused(Refusal {
                        shard,
                        gateway,
                        revision: Revision(m.revision),
                        listener: (!m.listener.is_empty()).then_some(m.listener),
                        entry: decode("entry key", &m.entry).ok(),
                        port_unavailable,
                        message: m.message,
                    })
                })
            }
            Some(from_shard::Message::Resync(m)) => return self.resync(shard, m, now),
            Some(from_shard::Message::Load(load)) => {
                if let Some(view) = self.views.lock().get_mut(&shard) {
                    view.loaded(&load, self.interest.gateways_of(shard).count());
                }
                return Vec::new();
            }
            Some(from_shard::Message::Hello(_)) | None => return Vec::new(),
        };
        match event {
            Ok(event) => vec![event],
            Err(error) => {
                tracing::warn!(%shard, %error, "message left out");
                Vec::new()
            }
        }
    }

    fn resync(&mut self, shard: ShardId, request: delivery::Resync, now: Duration) -> Vec<Event> {
        self.metrics.resyncs.fetch_add(1, Ordering::Relaxed);
        let gateway = gateway_key(request.gateway).ok();
        tracing::warn!(%shard, reason = request.reason, ?gateway, "shard asks anew");
        if let Some(gateway) = &gateway
            && !self.interest.shards_of(gateway).contains(&shard)
        {
            return self.send(shard, vec![messages::drop_gateway(gateway)]);
        }
        if let (Some(gateway), Some(stream)) = (&gateway, self.streams.get_mut(&shard))
            && request.active > 0
        {
            let serves = Revision(request.active);
            stream.serves.insert(gateway.clone(), serves);
        }
        if self.owed.asked((shard, gateway), now) {
            self.metrics.resyncs_delayed.fetch_add(1, Ordering::Relaxed);
        }
        Vec::new()
    }
}
