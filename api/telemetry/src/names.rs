//! Every metric that Shardway exports. Dashboards, alerts and the reference table use these names alone.

use crate::metrics::Desc;

macro_rules! metrics {
    ($($(#[$doc:meta])* $konst:ident = $name:literal, $otel:literal, $unit:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $konst: &Desc = &Desc { name: $name, otel: $otel, unit: $unit, help: $help };
        )*
        /// All of them, in this order.
        pub const ALL: &[&Desc] = &[$($konst),*];
    };
}

metrics! {
    REQUESTS = "shardway_proxy_requests", "shardway.proxy.requests", "{request}",
        "Requests answered, by gateway, tenant and status class.";
    REQUEST_DURATION = "shardway_proxy_request_duration_seconds", "http.server.request.duration", "s",
        "Time from a request's head to the end of its response, by gateway and tenant.";
    REQUEST_FAILURES = "shardway_proxy_request_failures", "shardway.proxy.request.failures", "{request}",
        "Requests that the proxy itself failed, by cause (response flag).";
    CONNECTIONS_ACTIVE = "shardway_proxy_connections_active", "shardway.proxy.connections.active", "{connection}",
        "Open client connections.";
    CONNECTIONS = "shardway_proxy_connections", "shardway.proxy.connections", "{connection}",
        "Client connections accepted.";
    CONNECTION_FAILURES = "shardway_proxy_connection_failures", "shardway.proxy.connection.failures", "{connection}",
        "Client connections that the proxy ended or never served, by cause: limit, accept, tls, tls_timeout, tls_left, no_request, resets.";
    SOCKETS_WAITING = "shardway_proxy_sockets_waiting", "shardway.proxy.sockets.waiting", "{socket}",
        "Sockets that active tables want and that are not open: their address is still another Gateway's, or cannot be opened.";
    UPSTREAM_CONNECTIONS_ACTIVE = "shardway_proxy_upstream_connections_active", "shardway.proxy.upstream.connections.active", "{connection}",
        "Open connections to endpoints.";
    UPSTREAM_CONNECTS = "shardway_proxy_upstream_connects", "shardway.proxy.upstream.connects", "{connection}",
        "Connections opened to endpoints, by outcome.";
    UPSTREAM_RETRIES = "shardway_proxy_upstream_retries", "shardway.proxy.upstream.retries", "{request}",
        "Requests sent again because a pooled connection was stale or a connect failed.";
    UPSTREAM_RETRIES_REFUSED = "shardway_proxy_upstream_retries_refused", "shardway.proxy.upstream.retries.refused", "{request}",
        "Requests that were not sent again because too many of their backend's were being sent again.";
    UPSTREAM_EJECTIONS = "shardway_proxy_upstream_ejections", "shardway.proxy.upstream.ejections", "{ejection}",
        "Times that an endpoint was passed over for a while, by cause: connect, response.";
    UPSTREAM_ENDPOINTS_EJECTED = "shardway_proxy_upstream_endpoints_ejected", "shardway.proxy.upstream.endpoints.ejected", "{endpoint}",
        "Endpoints that are passed over now, or of which one request finds out whether they are back.";
    TABLE_REVISION = "shardway_proxy_table_revision", "shardway.proxy.table.revision", "{revision}",
        "Highest revision that the shard serves.";
    TABLE_GATEWAYS = "shardway_proxy_table_gateways", "shardway.proxy.table.gateways", "{gateway}",
        "Gateways that the shard serves.";
    TABLE_APPLY_DURATION = "shardway_proxy_table_apply_duration_seconds", "shardway.proxy.table.apply.duration", "s",
        "Time to build a sub-table from a delta.";
    STREAM_RESYNCS = "shardway_proxy_stream_resyncs", "shardway.proxy.stream.resyncs", "{resync}",
        "Gaps or wrong hashes found on the delta stream.";
    STREAM_CONNECTED = "shardway_proxy_stream_connected", "shardway.proxy.stream.connected", "1",
        "1 while the delta stream is open.";
    RAFT_COMMIT_DURATION = "shardway_raft_commit_duration_seconds", "shardway.raft.commit.duration", "s",
        "Time from proposal to applied entry.";
    RAFT_FSYNC_DURATION = "shardway_raft_fsync_duration_seconds", "shardway.raft.fsync.duration", "s",
        "Time of one fsync of the log.";
    RAFT_APPLIED = "shardway_raft_applied_index", "shardway.raft.applied.index", "{entry}",
        "Index of the last applied entry.";
    RAFT_LOG_BYTES = "shardway_raft_log_bytes", "shardway.raft.log.size", "By",
        "Bytes of the log on disk.";
    RAFT_PROPOSALS_REFUSED = "shardway_raft_proposals_refused", "shardway.raft.proposals.refused", "{proposal}",
        "Proposals refused because the queue or the disk was full.";
    RAFT_SNAPSHOT_DURATION = "shardway_raft_snapshot_duration_seconds", "shardway.raft.snapshot.duration", "s",
        "Time to write one snapshot of the state; proposals wait meanwhile.";
    RAFT_SNAPSHOTS_FAILED = "shardway_raft_snapshots_failed", "shardway.raft.snapshots.failed", "{snapshot}",
        "Snapshots that could not be written; the log grows until one is.";
    RAFT_SNAPSHOTS_SENT = "shardway_raft_snapshots_sent", "shardway.raft.snapshots.sent", "{snapshot}",
        "Snapshots sent to followers that were too far behind.";
    RAFT_LEADER_CHANGES = "shardway_raft_leader_changes", "shardway.raft.leader.changes", "{change}",
        "Leaders that this replica followed or became, one after the other.";
    RAFT_MESSAGES = "shardway_raft_messages", "shardway.raft.messages", "{message}",
        "Messages between voters, by direction: in, out, dropped (came in while the queue was full).";
    PEER_CONNECTED = "shardway_peer_connected", "shardway.peer.connected", "1",
        "1 while messages can be sent to another replica, by its raft id.";
    PEER_QUEUE_MESSAGES = "shardway_peer_queue_messages", "shardway.peer.queue.messages", "{message}",
        "Raft messages that wait for another replica, by its raft id.";
    PEER_QUEUE_BYTES = "shardway_peer_queue_bytes", "shardway.peer.queue.size", "By",
        "Bytes of raft messages that wait for another replica, by its raft id.";
    PEER_MESSAGES_DROPPED = "shardway_peer_messages_dropped", "shardway.peer.messages.dropped", "{message}",
        "Raft messages that did not leave, by cause: full, down, unknown, large. Raft sends again what still counts.";
    PEER_CONNECTS = "shardway_peer_connects", "shardway.peer.connects", "{connection}",
        "Attempts to connect to another replica, by outcome: opened, failed.";
    PEER_REFUSED = "shardway_peer_refused", "shardway.peer.refused", "{call}",
        "Connections and calls of other replicas that were refused.";
    PEER_SNAPSHOTS = "shardway_peer_snapshots", "shardway.peer.snapshots", "{snapshot}",
        "Snapshots between replicas, by outcome: sent, not_sent, received, not_received.";
    RELAY_WAITING = "shardway_relay_waiting", "shardway.relay.waiting", "{event}",
        "Events of this replica's shards that are on their way to the leader and not acknowledged.";
    RELAY_ENDS = "shardway_relay_ends", "shardway.relay.ends", "{call}",
        "Calls to the leader that ended or did not come about; the next one begins with all that is so.";
    RELAY_RECEIVED = "shardway_relay_received", "shardway.relay.received", "{event}",
        "Events of other replicas' shards that this leader has taken.";
    PROPAGATION_DURATION = "shardway_propagation_duration_seconds", "gateway.propagation.duration", "s",
        "Time from a seen change to the last acknowledgement of the shards that serve it.";
    STATUS_WRITES = "shardway_status_writes", "shardway.status.writes", "{status}",
        "Statuses for the API server, by result: written, unchanged, outdated, conflict.";
    EVENTS = "shardway_events", "shardway.events", "{event}",
        "Kubernetes Events, by result: written, repeated, dropped (too many at once), failed.";
    INFRASTRUCTURE_WRITES = "shardway_infrastructure_writes", "shardway.infrastructure.writes", "{object}",
        "Services and EndpointSlices of Gateways, by result: written, deleted, refused, failed.";
    INFRASTRUCTURE_WAITING = "shardway_infrastructure_waiting", "shardway.infrastructure.waiting", "{gateway}",
        "Gateways whose Service or EndpointSlices wait to be written.";
    TRANSLATE_DURATION = "shardway_translate_duration_seconds", "shardway.translate.duration", "s",
        "Time to translate one batch of changes.";
    OBJECTS = "shardway_objects", "shardway.objects", "{object}",
        "Objects in the index, by kind.";
    OBJECTS_REJECTED = "shardway_objects_rejected", "shardway.objects.rejected", "{object}",
        "Objects that cannot be taken, by kind.";
    OBJECTS_QUARANTINED = "shardway_objects_quarantined", "shardway.objects.quarantined", "{object}",
        "Objects whose translation panicked and that are left out until they change.";
    GATEWAYS_MOVING = "shardway_placement_gateways_moving", "shardway.placement.gateways.moving", "{gateway}",
        "Gateways whose shards change because the pool has, by step: queued, under_way.";
    STREAMS_CONNECTED = "shardway_distribute_streams", "shardway.distribute.streams", "{stream}",
        "Shards connected to this operator.";
    ROLLOUTS_WAITING = "shardway_distribute_rollouts_waiting", "shardway.distribute.rollouts.waiting", "{gateway}",
        "Gateways with a committed revision that is not activated yet.";
    SHARDS_FENCED = "shardway_distribute_fenced", "shardway.distribute.fenced", "{shard}",
        "Shards that a rollout went on without.";
    STREAMS_LAGGING = "shardway_distribute_streams_lagging", "shardway.distribute.streams.lagging", "{stream}",
        "Streams closed because their shard did not keep up.";
    STREAMS_LEFT_TO_OTHERS = "shardway_distribute_streams_left_to_others", "shardway.distribute.streams.left_to_others", "{stream}",
        "Streams closed because their shard had followed a replica that has applied more.";
    RELAYS_LAGGING = "shardway_distribute_relays_lagging", "shardway.distribute.relays.lagging", "{relay}",
        "Times that a relay to the leader did not keep up and was told all anew.";
    RESYNCS_ASKED = "shardway_distribute_resyncs", "shardway.distribute.resyncs", "{resync}",
        "Times that a shard asked for a Gateway or its facts anew.";
    RESYNCS_DELAYED = "shardway_distribute_resyncs_delayed", "shardway.distribute.resyncs.delayed", "{resync}",
        "Those of them that came too soon after the one before and had to wait.";
    DISK_WAITING = "shardway_proxy_disk_waiting", "shardway.proxy.disk.waiting", "{entry}",
        "Entries that serve and are not yet in the shard's copy on disk.";
    DISK_BEHIND = "shardway_proxy_disk_behind_seconds", "shardway.proxy.disk.behind", "s",
        "Age of the oldest change that is not yet in the shard's copy on disk.";
    DISK_FAILURES = "shardway_proxy_disk_failures", "shardway.proxy.disk.failures", "{write}",
        "Writes of the shard's copy that failed and were made again.";
    CERTIFICATE_EXPIRY = "shardway_certificate_expiry_seconds", "shardway.certificate.expiry", "s",
        "End of this process's own certificate, seconds since 1970; 0 for none.";
    CERTIFICATE_RENEWALS = "shardway_certificate_renewals", "shardway.certificate.renewals", "{certificate}",
        "Times that this process's own certificate was made anew, by result: renewed, failed.";
    CERTIFICATES_SIGNED = "shardway_certificates_signed", "shardway.certificates.signed", "{request}",
        "Shards' requests for a certificate, by result: token, certificate, refused, limited, failed.";
    STREAM_HANDSHAKES_FAILED = "shardway_stream_handshakes_failed", "shardway.stream.handshakes.failed", "{connection}",
        "Connections to the operator that were closed before they were of use, by cause: tls, timeout, limit.";
    TELEMETRY_DROPPED = "shardway_telemetry_dropped", "shardway.telemetry.dropped", "{item}",
        "Spans or exports dropped because a queue was full or the collector failed.";
}
