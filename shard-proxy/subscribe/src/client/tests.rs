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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(DeliveryServer::new(operator));
    let server = api_telemetry::task::spawn(
        "server",
        server.serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let plane = Arc::new(FakePlane::default());
    let shard = Shard::new(Arc::clone(&plane));
    let (status, mut seen) = watch::channel(ShardStatus::default());
    let (connected, _open) = watch::channel(false);
    let config = ClientConfig {
        shard: 0,
        operators: vec![address.to_string()],
        admin: String::new(),
        tls: None,
    };
    let client =
        api_telemetry::task::spawn("client", run(config, shard, None, plane, status, connected));
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
