#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::Arc;

use api_snapshot::EntrySet;
use api_wire::delivery::delivery_server::{Delivery, DeliveryServer};
use api_wire::delivery::{ToShard, to_shard};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::shard::tests::{FakePlane, rule, step, text, web};

/// An operator that sends what it is given and tells what it hears.
struct FakeOperator {
    messages: Vec<to_shard::Message>,
    heard: mpsc::Sender<FromShard>,
}

#[tonic::async_trait]
impl Delivery for FakeOperator {
    type SubscribeStream = ReceiverStream<Result<ToShard, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FromShard>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (out, messages) = mpsc::channel(1024);
        for message in self.messages.clone() {
            let message = ToShard {
                message: Some(message),
                traceparent: String::new(),
            };
            out.send(Ok(message)).await.unwrap();
        }
        let (mut answers, heard) = (request.into_inner(), self.heard.clone());
        api_telemetry::task::spawn("fake operator", async move {
            let _open = out;
            while let Ok(Some(answer)) = answers.message().await {
                heard.send(answer).await.unwrap();
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// Serves it on a port of its own.
async fn serve(operator: FakeOperator) -> (SocketAddr, tokio::task::JoinHandle<impl Send + use<>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(DeliveryServer::new(operator));
    let incoming = TcpListenerStream::new(listener);
    let server = api_telemetry::task::spawn("server", server.serve_with_incoming(incoming));
    (address, server)
}

/// Shard 0 that follows operators.
fn follow(
    operators: Vec<SocketAddr>,
) -> (
    tokio::task::JoinHandle<Option<()>>,
    watch::Receiver<ShardStatus>,
) {
    let plane = Arc::new(FakePlane::default());
    let shard = Shard::new(Arc::clone(&plane));
    let (status, seen) = watch::channel(ShardStatus::default());
    let (connected, _open) = watch::channel(false);
    let config = ClientConfig {
        shard: 0,
        operators: operators.iter().map(ToString::to_string).collect(),
        admin: "[::]:7002".parse().unwrap(),
        tls: None,
    };
    let client = Client {
        shard,
        writer: None,
        plane,
        status,
        lost: VecDeque::new(),
        synced: false,
    };
    let client = follow_all(config, client, connected, Duration::from_millis(200));
    (api_telemetry::task::spawn("client", client), seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_step_is_said_to_take_longer_before_it_is_taken() {
    let ops: Vec<_> = (0..1500).map(|n| rule(&format!("r{n}"))).collect();
    let large = step(&mut EntrySet::default(), (0, 2), &ops, false);
    let activate = delivery::Activate {
        gateway: Some((&web()).into()),
        revision: 2,
    };
    let (heard, mut answers) = mpsc::channel(1024);
    let operator = FakeOperator {
        messages: vec![
            to_shard::Message::Welcome(delivery::Welcome { epoch: 7 }),
            to_shard::Message::Prepare(large),
            to_shard::Message::Activate(activate),
            to_shard::Message::Synced(delivery::Synced { revision: 2 }),
        ],
        heard,
    };
    let (address, server) = serve(operator).await;
    let (client, mut seen) = follow(vec![address]);
    let mut texts = Vec::new();
    while texts.len() < 4 {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.recv());
        let text = text(&answer.await.unwrap().unwrap());
        if text != "load" {
            texts.push(text);
        }
    }
    let expected = ["hello", "busy 2 600 ms", "prepared 2", "acknowledged 2"];
    assert_eq!(texts, expected);
    let ready = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|s| s.ready));
    ready.await.unwrap().unwrap();
    client.abort();
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_that_does_not_send_all_is_left_for_another_one() {
    let (heard, mut answers) = mpsc::channel(1024);
    let operator = |messages| FakeOperator {
        messages,
        heard: heard.clone(),
    };
    let welcome = to_shard::Message::Welcome(delivery::Welcome { epoch: 7 });
    let synced = to_shard::Message::Synced(delivery::Synced { revision: 2 });
    let (one, first) = serve(operator(vec![welcome.clone()])).await;
    let (two, second) = serve(operator(vec![welcome.clone()])).await;
    // Both lag: the shard goes from one to the other and is not ready.
    let (client, seen) = follow(vec![one, two]);
    let mut hellos = Vec::new();
    while hellos.len() < 3 {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.recv());
        let answer = answer.await.unwrap().unwrap();
        if let Some(from_shard::Message::Hello(hello)) = answer.message {
            hellos.push(hello.admin);
        }
    }
    // Told by the address that it is reached at.
    assert_eq!(hellos, ["127.0.0.1:7002"; 3]);
    assert!(!seen.borrow().ready);
    client.abort();

    let (three, third) = serve(operator(vec![welcome, synced])).await;
    let (client, mut seen) = follow(vec![one, two, three]);
    let ready = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|s| s.ready));
    ready.await.unwrap().unwrap();
    client.abort();
    for server in [first, second, third] {
        server.abort();
    }
}
