//! Keeps a stream to an operator open.

mod certificates;
mod connect;
mod held;
mod operators;
mod tls;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use api_telemetry::Chain;
use api_wire::MESSAGE_BYTES_MAX;
use api_wire::delivery::delivery_client::DeliveryClient;
use api_wire::delivery::{self, FromShard, ToShard, from_shard, to_shard};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::Plane;
use crate::disk::Writer;
use crate::shard::{Outcome, Shard, ShardStatus};
use connect::{StreamError, TlsTo, connect};
use operators::Operators;

pub use certificates::{Certificates, TokenTls};
pub use tls::FileTls;

/// First pause after a stream broke; it doubles up to [`PAUSE_MAX`] and is cut by up to a half at random.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is said that no operator can be reached.
const WARN_EVERY: Duration = Duration::from_secs(30);
/// How often the operator is told what this shard does, and asked for what the copy on disk has lost.
const LOAD_EVERY: Duration = Duration::from_secs(2);
/// Gateways asked for at a time because the copy on disk has lost them.
const LOST_MAX: usize = 100;
/// Answers that wait to be sent; the shard waits for room.
const ANSWERS_MAX: usize = 1024;
/// Messages taken off the stream before they are worked on, so that those that wait long can be said to.
const BACKLOG_MAX: usize = 64;
/// Messages worked on before the shard looks up: it has its load to tell.
const TAKEN_MAX: usize = 1024;
/// Messages ahead of a step from which it is said to wait.
const BACKLOG_BUSY: usize = 16;

/// DNS name in the operator's certificate.
const OPERATOR_NAME: &str = "operator.shardway.internal";
/// How long an operator may say nothing before it has sent all, while another one is there: it may be a replica that does
/// not follow the others. Doubles up to [`PATIENCE_MAX`] when a round of all of them brought nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest such time, and the time to open a stream when there is one operator alone.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// What the stream is protected by.
#[derive(Debug, Clone)]
pub enum ClientTls {
    /// Files that somebody else writes.
    Files(FileTls),
    /// A certificate that the shard gets from the operator, and renews.
    Token(Arc<Certificates>),
}

/// How operators are reached.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// This shard.
    pub shard: u32,
    /// `host:port` of the operators' streams. Names are resolved for each round, and all addresses tried in turn, from one on
    /// that depends on the shard.
    pub operators: Vec<String>,
    /// Admin endpoint of this shard, told to the operator; when it is bound on all addresses, by the one that the operator
    /// is reached from.
    pub admin: SocketAddr,
    /// None for clear text.
    pub tls: Option<ClientTls>,
}

/// Follows the operators for ever; never returns while the process should serve. `status` is kept current; `connected`
/// says whether a stream is open.
pub async fn run<P: Plane>(
    config: ClientConfig,
    shard: Shard<P>,
    writer: Option<Writer>,
    plane: Arc<P>,
    status: watch::Sender<ShardStatus>,
    connected: watch::Sender<bool>,
) {
    let client = Client {
        shard,
        writer,
        plane,
        status,
        lost: VecDeque::new(),
        synced: false,
    };
    if let Some(ClientTls::Token(certificates)) = &config.tls {
        let renewals = Arc::clone(certificates).run(config.operators.clone(), config.shard);
        api_telemetry::task::spawn("certificate", renewals);
    }
    follow_all(config, client, connected, PATIENCE).await;
}

async fn follow_all<P: Plane>(
    config: ClientConfig,
    mut client: Client<P>,
    connected: watch::Sender<bool>,
    patience_min: Duration,
) {
    let mut operators = Operators::new(config.operators.clone(), config.shard);
    let mut patience = patience_min;
    let mut pause = PAUSE_MIN;
    let mut random = u64::from(config.shard) + 1;
    let mut warned: Option<Instant> = None;
    loop {
        client.publish();
        let began = Instant::now();
        client.synced = false;
        let (operator, error) = match operators.next().await {
            Ok(operator) => {
                let patience = operators.others().then_some(patience);
                let followed = client.follow(&config, operator, patience, &connected);
                let error = followed.await.err().unwrap_or(StreamError::Ended);
                (Some(operator), error)
            }
            Err(error) => (None, error),
        };
        if let (Some(ClientTls::Token(certificates)), StreamError::Status(status)) =
            (&config.tls, &error)
            && status.code() == tonic::Code::PermissionDenied
        {
            certificates.doubt();
        }
        let lost = connected.send_replace(false);
        let operator_shown = operator.map(tracing::field::display);
        if lost && !matches!(error, StreamError::Lagging(_)) {
            tracing::warn!(operator = operator_shown, error = %Chain(&error), "delta stream lost; serving on");
            warned = Some(began);
        } else if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            tracing::warn!(operator = operator_shown, error = %Chain(&error), "no delta stream; serving what is held, trying on");
            warned = Some(Instant::now());
        } else {
            tracing::debug!(operator = operator_shown, error = %Chain(&error), "no delta stream");
        }
        if began.elapsed() > PAUSE_MAX * 2 {
            pause = PAUSE_MIN;
        }
        if let Some(operator) = operator
            && client.synced
        {
            operators.lost(operator);
            patience = patience_min;
        } else if operators.round_over() {
            patience = (patience * 2).min(PATIENCE_MAX);
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let half = pause.as_micros() as u64 / 2;
        tokio::time::sleep(Duration::from_micros(half + (random >> 33) % half.max(1))).await;
        // Within a round each one is asked without waiting longer: those before it say nothing about it.
        if operators.round_over() {
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

struct Client<P: Plane> {
    shard: Shard<P>,
    writer: Option<Writer>,
    plane: Arc<P>,
    status: watch::Sender<ShardStatus>,
    /// What the copy on disk has lost and was not asked for yet.
    lost: VecDeque<Option<api::GatewayKey>>,
    /// Whether the operator has sent all that this shard should hold, on this stream.
    synced: bool,
}

impl<P: Plane> Client<P> {
    /// Follows one operator while it goes. With `patience`, gives up on one that says nothing for that long before it has
    /// sent all.
    async fn follow(
        &mut self,
        config: &ClientConfig,
        operator: SocketAddr,
        patience: Option<Duration>,
        connected: &watch::Sender<bool>,
    ) -> Result<(), StreamError> {
        let connection = connect(operator, tls_to(config).await?).await?;
        let mut client = DeliveryClient::new(connection.channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        self.shard.forget_prepared();
        let admin = advertised(config.admin, connection.local).to_string();
        let hello = self.shard.hello(config.shard, &admin);
        say(&answers, [hello]).await?;
        let open_within = patience.unwrap_or(PATIENCE_MAX);
        let opened = client.subscribe(ReceiverStream::new(receiver));
        let mut messages = tokio::time::timeout(open_within, opened)
            .await
            .map_err(|_| StreamError::Lagging(open_within))??
            .into_inner();
        connected.send_replace(true);
        tracing::info!(%operator, "delta stream open");
        let mut load = tokio::time::interval(LOAD_EVERY);
        let mut backlog = VecDeque::new();
        let mut heard = Instant::now();
        loop {
            let give_up = patience.filter(|_| !self.synced);
            tokio::select! {
                message = messages.message() => {
                    let Some(message) = message? else { return Err(StreamError::Ended) };
                    backlog.push_back(message);
                    self.work_off(&mut backlog, &mut messages, &answers).await?;
                    heard = Instant::now();
                }
                _ = load.tick() => {
                    say(&answers, [load_of(&*self.plane)]).await?;
                    let outcome = self.ask_for_lost();
                    self.tell(outcome, &answers).await?;
                }
                () = tokio::time::sleep_until(heard + give_up.unwrap_or_default()), if give_up.is_some() => {
                    return Err(StreamError::Lagging(give_up.unwrap_or_default()));
                }
            }
        }
    }

    /// Takes messages until none waits, or many were taken. Those that take long, or wait behind others, are said to before.
    async fn work_off(
        &mut self,
        backlog: &mut VecDeque<ToShard>,
        messages: &mut Streaming<ToShard>,
        answers: &mpsc::Sender<FromShard>,
    ) -> Result<(), StreamError> {
        let mut taken = 0;
        while let Some(message) = backlog.pop_front() {
            taken += 1;
            if let Some(busy) = Shard::<P>::busy(&message, false) {
                say(answers, [busy]).await?;
                // The stream's own task has to run for it to leave.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
            self.synced |= matches!(message.message, Some(to_shard::Message::Synced(_)));
            let outcome = self.shard.take(message).await;
            self.tell(outcome, answers).await?;
            while taken < TAKEN_MAX
                && backlog.len() < BACKLOG_MAX
                && let Some(message) = at_hand(messages).await?
            {
                if backlog.len() >= BACKLOG_BUSY
                    && let Some(busy) = Shard::<P>::busy(&message, true)
                {
                    say(answers, [busy]).await?;
                }
                backlog.push_back(message);
            }
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        outcome: Outcome,
        answers: &mpsc::Sender<FromShard>,
    ) -> Result<(), StreamError> {
        if let Some(writer) = &self.writer {
            for change in outcome.changes {
                writer.write(change);
            }
        }
        self.publish();
        say(answers, outcome.answers).await
    }

    fn publish(&self) {
        let now = self.shard.status();
        self.status.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
    }

    /// Asks for some of what the copy on disk has lost.
    fn ask_for_lost(&mut self) -> Outcome {
        if let Some(writer) = &self.writer {
            let (lost, all) = writer.take_lost();
            self.lost.extend(lost);
            if all {
                self.lost = self.shard.all_held().into();
            }
        }
        let mut outcome = Outcome::default();
        let some = self.lost.len().min(LOST_MAX);
        for lost in self.lost.drain(..some) {
            let asked = self.shard.ask_for_copy(lost.as_ref());
            outcome.answers.extend(asked.answers);
        }
        outcome
    }
}

/// What the next connection needs; none for clear text.
async fn tls_to(config: &ClientConfig) -> Result<Option<TlsTo>, StreamError> {
    let tls = match &config.tls {
        None => return Ok(None),
        Some(ClientTls::Files(files)) => files.load()?,
        Some(ClientTls::Token(certificates)) => certificates.tls().await?,
    };
    Ok(Some(TlsTo {
        config: tls,
        server_name: OPERATOR_NAME.into(),
    }))
}

/// An endpoint as others reach it.
fn advertised(admin: SocketAddr, local: IpAddr) -> SocketAddr {
    if admin.ip().is_unspecified() {
        SocketAddr::new(local.to_canonical(), admin.port())
    } else {
        admin
    }
}

async fn say(
    answers: &mpsc::Sender<FromShard>,
    all: impl IntoIterator<Item = FromShard>,
) -> Result<(), StreamError> {
    for answer in all {
        answers.send(answer).await.map_err(|_| StreamError::Ended)?;
    }
    Ok(())
}

/// A message that has arrived, without waiting for one. The end of the stream is seen when the next is waited for.
async fn at_hand(messages: &mut Streaming<ToShard>) -> Result<Option<ToShard>, StreamError> {
    let polled = std::future::poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *messages).poll_next(context) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        })
    });
    Ok(polled.await.transpose()?)
}

fn load_of<P: Plane>(plane: &P) -> FromShard {
    let (connections, requests_in_flight, requests_total) = plane.load();
    FromShard {
        message: Some(from_shard::Message::Load(delivery::Load {
            connections,
            requests_in_flight,
            requests_total,
            rss_bytes: rss_bytes().unwrap_or(0),
        })),
    }
}

/// Resident memory of this process, from the second field of `/proc/self/statm`, in pages of 4 KiB.
fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(test)]
mod tests;
