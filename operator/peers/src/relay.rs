//! What a follower's shards say, told to the leader.
//!
//! ```text
//!   Distributor --events--> one call to the leader, bounded --> Distributor of the leader
//! ```
//!
//! A call begins with all that is so ([`Event::Restarted`] first). Whatever breaks it, or does not keep up, ends it, and the
//! next one begins anew. For the leader a call that has ended has disconnected the shards that it had told of.

mod receive;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api_telemetry::Chain;
use api_wire::peer::{FromFollower, from_follower};
use futures::StreamExt;
use futures::future::BoxFuture;
use operator_consensus::Leadership;
use operator_distribute::{Distributor, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::dial::{Patience, dial};
use crate::link::{ACCEPTED_WITHIN, LinkError};
use crate::pause::Pause;
use crate::transport::Shared;
pub(crate) use receive::Receiving;

/// Shards of all replicas, as the relay sees them; a [`Distributor`] is one.
pub trait Shards: Send + Sync + 'static {
    /// What this replica's shards say: first [`Event::Restarted`] and all that is so. Ends when its receiver does not keep up.
    fn events(&self) -> BoxFuture<'_, mpsc::Receiver<Event>>;

    /// Takes what the shards of the replica of an ordinal say, in order. The replica waits meanwhile.
    fn relayed(&self, replica: u64, event: Event) -> BoxFuture<'_, ()>;

    /// Nothing is known of a replica's shards any more.
    fn relay_ended(&self, replica: u64) -> BoxFuture<'_, ()>;
}

impl Shards for Distributor {
    fn events(&self) -> BoxFuture<'_, mpsc::Receiver<Event>> {
        Box::pin(self.events())
    }

    fn relayed(&self, replica: u64, event: Event) -> BoxFuture<'_, ()> {
        Box::pin(self.relayed(replica, event))
    }

    fn relay_ended(&self, replica: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.relay_ended(replica))
    }
}

/// Both ends of the relay in one replica.
pub struct Relaying {
    /// Whose events are told while another replica leads, and who takes others' while this one does.
    pub shards: Arc<dyn Shards>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
}

/// Tells whoever leads, for ever.
pub(crate) async fn relay(relaying: Relaying, shared: Arc<Shared>) {
    let Relaying {
        shards,
        mut leadership,
    } = relaying;
    let own = shared.config.id;
    let mut pause = Pause::new(own);
    loop {
        let leader = leadership.borrow_and_update().leader;
        let Some(other) = leader.filter(|leader| *leader != own) else {
            another(&mut leadership, leader).await;
            continue;
        };
        let began = Instant::now();
        tokio::select! {
            Err(error) = carry(other, &*shards, &shared) => {
                tracing::debug!(leader = other, error = %Chain(&error), "relay to the leader ended");
                shared.metrics.relay_ends.fetch_add(1, Ordering::Relaxed);
            }
            () = another(&mut leadership, leader) => continue,
        }
        tokio::select! {
            () = tokio::time::sleep(pause.next(began.elapsed())) => {}
            () = another(&mut leadership, leader) => {}
        }
    }
}

/// Waits until somebody else leads than `leader`, or nobody, or anybody.
async fn another(leadership: &mut watch::Receiver<Leadership>, leader: Option<u64>) {
    let changed = leadership.wait_for(|now| now.leader != leader).await;
    let ended = changed.map(drop).is_err();
    if ended {
        // Raft has ended: the process does as well.
        std::future::pending::<()>().await;
    }
}

/// Tells everything, then each event, until the call ends.
async fn carry(
    leader: u64,
    shards: &dyn Shards,
    shared: &Arc<Shared>,
) -> Result<Infallible, LinkError> {
    let peer = shared.directory.peer(leader);
    let peer = peer.ok_or(LinkError::Unknown(leader))?;
    let mut client = dial(leader, &peer, shared, Patience::Short).await?;
    let metrics = &shared.metrics;
    metrics.relay_told.store(0, Ordering::Relaxed);
    metrics.relay_taken.store(0, Ordering::Relaxed);
    let message = |message| FromFollower {
        message: Some(message),
    };
    let hello = message(from_follower::Message::Hello(shared.hello(leader)));
    let events = ReceiverStream::new(shards.events().await).enumerate();
    let counted = Arc::clone(metrics);
    let told = events.map(move |(at, event)| {
        let sequence = at as u64 + 1;
        counted.relay_told.store(sequence, Ordering::Relaxed);
        message(from_follower::Message::Event(wire::to_wire(
            sequence, event,
        )))
    });
    // The connection would go on with the events when nobody waits for the answer any more.
    let over = CancellationToken::new();
    let told = told.take_until(over.clone().cancelled_owned());
    let _over = over.drop_guard();
    let call = client.relay(futures::stream::iter([hello]).chain(told));
    let answer = tokio::time::timeout(ACCEPTED_WITHIN, call).await;
    let mut answer = answer.map_err(|_| LinkError::NotAccepted)??.into_inner();
    tracing::info!(leader, "shards of this replica are relayed");
    while let Some(answer) = answer.message().await? {
        metrics.relay_taken.store(answer.taken, Ordering::Relaxed);
    }
    Err(LinkError::Ended)
}
