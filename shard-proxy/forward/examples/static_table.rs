//! The data plane alone, with one rule for all requests: what is measured against other proxies.
//!
//! `static_table ADDRESS BACKEND [WORKERS]`: serves `ADDRESS` (port 8080 is bound as 18080) from `BACKEND`, an
//! `ip:port` that speaks HTTP/1.1. Runs until killed; the access log is off.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use api::{BackendKey, GatewayKey, Revision, RouteKey, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, GatewayEntry, GatewayEntryKey, ListenerProtocol,
    ListenerSpec, PathMatch, RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::facts::{Backend, BackendProtocol, Binding, Endpoint, EndpointAddress};
use api_snapshot::{Op, SetHash};
use shard_proxy_forward::{DataPlane, ForwardConfig, GatewayTable};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next();
    let address: IpAddr = next().ok_or("ADDRESS is missing")?.parse()?;
    let backend: SocketAddr = next().ok_or("BACKEND is missing")?.parse()?;
    let workers = next().map_or(Ok(1), |workers| workers.parse())?;

    let config = ForwardConfig {
        workers,
        access_log: false,
        ..ForwardConfig::new(address)
    };
    let plane = DataPlane::start(config)?;
    let key = BackendKey::new("shop", "echo", 80);
    let endpoint = Endpoint::new(EndpointAddress::Ip(backend.ip()), backend.port());
    plane.set_backend(
        &key,
        &Backend {
            protocol: BackendProtocol::Http1,
            endpoints: vec![endpoint],
        },
    );
    let listener = ListenerSpec {
        port: 8080,
        protocol: ListenerProtocol::Http,
        hostname: None,
        certificates: vec![],
    };
    let rule = RuleSpec {
        name: None,
        created_at: Timestamp(0),
        attachments: vec![Attachment {
            listener: "web".into(),
            hosts: vec![AttachedHost {
                host: None,
                route_host: None,
            }],
        }],
        matches: vec![RouteMatch {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: vec![],
            query: vec![],
        }],
        filters: vec![],
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(key),
            weight: 1,
            filters: vec![],
        }],
        timeouts: Timeouts::default(),
    };
    let ops = [
        Op::put(
            &GatewayEntryKey::Listener("web".into()),
            &GatewayEntry::Listener(listener),
        ),
        Op::put(
            &GatewayEntryKey::Rule(RouteKey::http("shop", "all"), 0),
            &GatewayEntry::Rule(rule),
        ),
    ];
    let hash = ops.iter().fold(SetHash::default(), |hash, op| {
        hash.plus(SetHash::of(
            &op.key,
            op.value.as_deref().unwrap_or_default(),
        ))
    });
    let table = GatewayTable::empty(GatewayKey::new("shop", "edge")).apply(
        Revision(0),
        Revision(1),
        true,
        &ops,
        hash,
        &mut |key| plane.backend_handle(key),
    )?;
    let binding = Binding {
        addresses: vec![],
        public_port: 8080,
        target_port: 18080,
    };
    let prepared = plane.prepare(table, &BTreeMap::from([(8080, binding)]))?;
    plane.activate(prepared).await;
    std::future::pending().await
}
