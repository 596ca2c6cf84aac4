#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use std::collections::BTreeMap;

use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, Filter, GatewaySpec, HeaderChanges, ListenerProtocol,
    ListenerSpec, NameValue, PathMatch, RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::facts::{Backend, BackendProtocol, Endpoint, EndpointAddress};
use api_snapshot::{EntrySet, GatewayEntry, GatewayEntryKey, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// An operator that has these answers, and 404 for all else.
async fn operator(answers: BTreeMap<String, Vec<u8>>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let (status, body) = match answers.get(path) {
                Some(body) => ("200 OK", body.clone()),
                None => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    });
    Client::at(address)
}

/// Gateway `a/web` with an HTTP listener and one rule, `/~shop` to `a/app:80`.
fn entries() -> Vec<u8> {
    let backend = WeightedBackend {
        target: BackendTarget::Backend(BackendKey::new("a", "app", 80)),
        weight: 1,
        filters: vec![Filter::RequestHeaders(HeaderChanges {
            set: vec![NameValue {
                name: "x-env".into(),
                value: "canary".into(),
            }],
            add: Vec::new(),
            remove: vec!["x-debug".into()],
        })],
    };
    let rule = RuleSpec {
        name: None,
        created_at: api::Timestamp(1),
        attachments: vec![Attachment {
            listener: "http".into(),
            hosts: vec![AttachedHost {
                host: None,
                route_host: None,
            }],
        }],
        matches: vec![RouteMatch {
            path: PathMatch::Prefix("/~shop".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: vec![backend],
        timeouts: Timeouts::default(),
    };
    let entries = [
        (
            GatewayEntryKey::Gateway,
            GatewayEntry::Gateway(GatewaySpec {
                tenant: api::TenantId("a".into()),
                uid: "u".into(),
                generation: 1,
            }),
        ),
        (
            GatewayEntryKey::Listener("http".into()),
            GatewayEntry::Listener(ListenerSpec {
                port: 80,
                protocol: ListenerProtocol::Http,
                hostname: None,
                certificates: Vec::new(),
            }),
        ),
        (
            GatewayEntryKey::Rule(api::RouteKey::http("a", "shop"), 0),
            GatewayEntry::Rule(rule),
        ),
    ];
    let ops = api_snapshot::diff_typed(&EntrySet::default(), BTreeMap::from(entries));
    let mut set = EntrySet::default();
    for op in &ops {
        set.apply(op);
    }
    let answer: (Revision, Vec<Op>, SetHash, Vec<(u16, u16)>) =
        (Revision(7), ops, set.hash(), vec![(80, 10080)]);
    encode(&answer)
}

fn answers() -> BTreeMap<String, Vec<u8>> {
    let statuses = serde_json::json!([
        {"kind": "Gateway", "namespace": "a", "name": "never-good", "status": {}},
        {"kind": "Gateway", "namespace": "a", "name": "web", "status": {}},
    ]);
    let backend = Fact::Backend(Backend {
        protocol: BackendProtocol::Http1,
        endpoints: vec![Endpoint::new(
            EndpointAddress::Ip("127.0.0.1".parse().unwrap()),
            9001,
        )],
    });
    [
        ("/api/v1/statuses", statuses.to_string().into_bytes()),
        ("/api/v1/entries/a/web", entries()),
        ("/api/v1/backends/a/app/80", encode(&backend)),
    ]
    .map(|(path, body)| (path.to_owned(), body))
    .into()
}

#[tokio::test]
async fn a_gateway_that_is_not_served_hides_no_other_and_all_of_the_rule_is_told() {
    let client = operator(answers()).await;
    let url = "http://shop.test:10080/x/../%7eshop/cart";
    let text = explain(&client, "GET", url, &[], None).await.unwrap();
    for line in [
        "gateway    a/web (revision 7), port 80 bound as 10080",
        "path       /x/../%7eshop/cart is read as /~shop/cart",
        "route      HTTPRoute a/shop rules[0]",
        "backend    a/app:80 weight 1: 127.0.0.1:9001",
        "  filter   request headers: set x-env: canary; remove x-debug",
    ] {
        assert!(
            text.lines().any(|own| own == line),
            "{line:?} is not in\n{text}"
        );
    }
}

#[tokio::test]
async fn a_gateway_that_is_named_and_not_served_is_an_error() {
    let client = operator(answers()).await;
    let asked = explain(&client, "GET", "http://a.test/", &[], Some("a/never-good")).await;
    assert!(
        asked
            .unwrap_err()
            .to_string()
            .contains("a/never-good is not served")
    );
}

#[tokio::test]
async fn a_path_that_every_shard_refuses_is_a_400() {
    let client = operator(answers()).await;
    let text = explain(&client, "GET", "http://a.test/a%2fb", &[], None)
        .await
        .unwrap();
    assert!(text.ends_with("400\n"), "{text}");
}
