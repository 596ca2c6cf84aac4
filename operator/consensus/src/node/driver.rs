//! What the node's thread does: connects core, store, state machine and outbox.
//!
//! ```text
//!   run: Mailbox::take -> message, request, propose, tick -> work -> published status
//!   work: Core::ready -> outbox, Store (sync) -> Core::persisted -> outbox, state machine, observer, answers
//! ```
//! Nothing that it decides depends on a clock or on randomness of its own: ticks are called, time-outs are counted in
//! ticks, the seed is given. `simulation` drives it without a thread.

mod asked;
mod snapshots;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api_telemetry::Chain;
use parking_lot::RwLock;
use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};

use self::snapshots::Transfers;
use self::waiting::WaitingList;
use super::mailbox::{Mailbox, Request, Stop};
use super::shared::Shared;
use crate::chunk::Assembly;
use crate::core::{CommittedEntry, Content, Core, ELECTION_TICKS, Work};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mutation::{self, Mutation};
use crate::store::disk::Disk;
use crate::store::{Recovered, SavedSnapshot, Store, StoreError};
use crate::{
    Applied, Config, Leadership, Observed, Outbox, ProposeError, StartError, StateMachine, Status,
};

/// Ticks after which a node that hands over stops in any case: twice the longest election time-out.
const HAND_OVER_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// Bytes of entries that are taken from messages before they are written: a log segment holds them.
const ENTRIES_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(crate) struct Driver<S: StateMachine, F> {
    config: Config,
    core: Core,
    store: Store,
    state: Arc<RwLock<S>>,
    observer: F,
    outbox: Box<dyn Outbox>,
    metrics: Arc<Metrics>,
    /// True until everything that was known to be committed before the start is applied.
    replaying: bool,
    waiting: WaitingList<S::Output>,
    next_id: u64,
    assembly: Assembly,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
    /// The last one behind which no proposal was unfinished.
    whole: (u64, u64),
    ticks: u64,
    handing_over_since: Option<u64>,
    /// Room reserved for entries of messages that were taken since the last round.
    entries_bytes: u64,
    transfers: Transfers,
    snapshot_index: u64,
    log_bytes_at_snapshot: u64,
}

impl<S: StateMachine, F: FnMut(Observed<S::Output>)> Driver<S, F> {
    /// Recovers what the disk holds into `state`, and founds a group on an empty one. A lone voter leads when this
    /// returns.
    ///
    /// # Errors
    /// See [`super::start_with_peers`].
    pub(crate) fn open(
        config: Config,
        disk: Box<dyn Disk>,
        state: Arc<RwLock<S>>,
        observer: F,
        outbox: Box<dyn Outbox>,
        seed: u64,
    ) -> Result<Self, StartError> {
        let before = Instant::now();
        let refused = |source| StartError::Store {
            dir: config.data_dir.clone(),
            source,
        };
        let (mut store, mut recovered) = Store::open(disk, config.id).map_err(refused)?;
        let initial = Members::of(config.initial_voters.clone());
        if recovered.is_new() && !initial.voters.is_empty() {
            let founded = found(initial.clone(), &*state.read());
            store.install_snapshot(&founded).map_err(refused)?;
            recovered.snapshot = Some(founded);
        }
        if mutation::on(Mutation::ForgetCommit) {
            recovered.commit = recovered.snapshot.as_ref().map_or(0, |saved| saved.index);
        }
        if mutation::on(Mutation::ForgetMembers) {
            forget_members(&mut recovered, &initial);
        }
        // Without this one, a node that was being added would take itself for one: it has a term, and no members yet.
        if recovered.lone_voter && recovered.newest_members().is_none() {
            let alone = Members::of(vec![config.id]);
            store.append_members(0, &alone).map_err(refused)?;
            store.sync().map_err(refused)?;
            recovered.members = Some((0, alone));
        }
        let mut applied = (0, 0);
        if let Some(snapshot) = &mut recovered.snapshot {
            // Moved out: two copies of the state are one too many.
            let bytes = std::mem::take(&mut snapshot.state);
            let restored = state.write().restore(&bytes);
            restored.map_err(|reason| StartError::Restore {
                index: snapshot.index,
                reason,
            })?;
            applied = (snapshot.index, snapshot.term);
        }
        let core = Core::new(config.id, recovered, seed)?;
        let mut driver = Self {
            config,
            core,
            store,
            state,
            observer,
            outbox,
            metrics: Arc::default(),
            replaying: true,
            waiting: WaitingList::default(),
            next_id: 1,
            assembly: Assembly::default(),
            applied,
            whole: applied,
            ticks: 0,
            handing_over_since: None,
            entries_bytes: 0,
            transfers: Transfers::default(),
            snapshot_index: applied.0,
            log_bytes_at_snapshot: 0,
        };
        driver.replay()?;
        driver.replaying = false;
        tracing::info!(
            applied = driver.applied.0,
            last = driver.core.last_index(),
            snapshot = driver.snapshot_index,
            members = ?driver.core.members(),
            took = ?before.elapsed(),
            "raft state recovered"
        );
        Ok(driver)
    }

    /// Applies what is known to be committed; for a lone voter, who need not ask anyone, that is its whole log.
    fn replay(&mut self) -> Result<(), StartError> {
        let dir = self.config.data_dir.clone();
        let refused = move |source| StartError::Store {
            dir: dir.clone(),
            source,
        };
        self.work().map_err(&refused)?;
        if *self.core.members() == Members::of(vec![self.config.id]) {
            self.core.campaign()?;
            self.work().map_err(&refused)?;
        }
        Ok(())
    }

    pub(super) fn run(mut self, mailbox: &Mailbox<S::Output>, shared: &Shared) {
        let mut next_tick = Instant::now() + self.config.tick;
        let result = loop {
            let batch = mailbox.take(next_tick);
            let (stop, empty) = (batch.stop, batch.empty);
            if let Err(error) = self.take(batch.messages, batch.requests) {
                break Err(error);
            }
            for proposal in batch.proposals {
                self.propose(proposal);
            }
            if Instant::now() >= next_tick {
                self.tick();
                // After a pause (suspend, overload) ticks are not caught up with.
                next_tick = (next_tick + self.config.tick).max(Instant::now());
            }
            if let Err(error) = self.work() {
                break Err(error);
            }
            shared.publish(self.status(), self.leadership(), &self.metrics);
            self.answer_changes();
            let done = match stop {
                Stop::No => false,
                Stop::Now => true,
                Stop::Orderly => empty && self.has_handed_over(),
            };
            if done {
                break Ok(());
            }
        };
        if let Err(error) = result {
            tracing::error!(error = %Chain(&error), "raft node stops; the log can no longer be trusted to grow");
        }
        self.waiting.give_up(&ProposeError::Stopped);
    }

    fn take(&mut self, messages: Vec<Message>, requests: Vec<Request>) -> Result<(), StoreError> {
        for message in messages {
            self.message(message)?;
        }
        for request in requests {
            self.request(request);
        }
        Ok(())
    }

    /// Takes a message of another member. One that finds no room on the disk is dropped, as if the network had lost it.
    pub(crate) fn message(&mut self, message: Message) -> Result<(), StoreError> {
        self.metrics.messages_in.fetch_add(1, Ordering::Relaxed);
        if message.get_msg_type() == MessageType::MsgTimeoutNow {
            // Raft does not let a member campaign that has a change of the members to apply.
            self.work()?;
        }
        let cost = message.entries.iter();
        let cost: u64 = cost.map(|entry| Store::cost(entry.data.len())).sum();
        if self.entries_bytes + cost > ENTRIES_BYTES_MAX {
            self.work()?;
        }
        self.entries_bytes += cost;
        if cost > 0
            && let Err(error) = self.store.reserve(cost)
        {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(error = %Chain(&error), "entries of the leader find no room");
            return Ok(());
        }
        self.core.step(message);
        Ok(())
    }

    /// One unit of time has passed.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        self.core.tick();
        self.give_up_snapshots();
    }

    /// Persists, sends and applies until there is nothing left to do.
    pub(crate) fn work(&mut self) -> Result<(), StoreError> {
        while let Some(mut work) = self.core.ready() {
            // A leader's messages need not wait for its own disk (Raft dissertation, section 10.2.1).
            self.send(std::mem::take(&mut work.messages));
            if let Some(snapshot) = &work.install {
                self.install(snapshot)?;
            }
            self.store.committed(work.commit);
            self.store.append(&work.entries, work.vote)?;
            if must_sync(&work) {
                let before = Instant::now();
                self.store.sync()?;
                self.metrics.fsync.record(before.elapsed());
            }
            let freed = self.core.persisted(&work);
            self.store.committed(freed.commit);
            self.send(freed.messages);
            self.apply(work.committed)?;
            self.apply(freed.committed)?;
            self.core.applied();
        }
        self.store.release();
        self.entries_bytes = 0;
        self.waiting
            .keep(self.core.leads().then(|| self.core.term()));
        self.compact();
        self.offer_snapshot();
        let log_bytes = self.store.log_bytes();
        self.metrics.log_bytes.store(log_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let bytes = message.encode_to_vec();
            self.metrics.messages_out.fetch_add(1, Ordering::Relaxed);
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.sends_snapshot(to, bytes.len());
                self.outbox.send_snapshot(to, bytes);
            } else {
                self.outbox.send(to, bytes);
            }
        }
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let position = (entry.index, entry.term);
            self.applied = position;
            let (output, changed) = match entry.content {
                Content::Data(data) => (self.apply_data(entry.index, &data), false),
                Content::Change(change) => {
                    // Only another leader's entry comes between two chunks.
                    self.assembly.clear();
                    let members = self.core.apply_change(entry.index, change);
                    if let Some(members) = &members {
                        self.store.append_members(entry.index, members)?;
                        self.store.sync()?;
                        tracing::info!(index = entry.index, ?change, ?members, "members changed");
                    }
                    (None, members.is_some())
                }
            };
            if self.assembly.is_empty() {
                self.whole = position;
            }
            let made = self
                .waiting
                .settle(position, output.as_ref(), changed, &self.metrics);
            if let Some(answer) = made {
                self.confirm_change(answer);
            }
        }
        let (applied, _) = self.applied;
        self.metrics.applied.store(applied, Ordering::Relaxed);
        Ok(())
    }

    /// Applies the proposal that `data` is, or ends, if it does.
    fn apply_data(&mut self, index: u64, data: &[u8]) -> Option<S::Output> {
        let data = self.assembly.push(data)?;
        let output = self.state.write().apply(index, &data);
        if mutation::on(Mutation::ApplyTwice) && index.is_multiple_of(16) {
            self.state.write().apply(index, &data);
        }
        if !self.replaying {
            (self.observer)(Observed::Applied(Applied {
                index,
                output: output.clone(),
            }));
        }
        Some(output)
    }

    pub(crate) fn status(&self) -> Status {
        self.core.status(self.applied.0, self.store.log_bytes())
    }

    /// A leader leads once the first entry of its own term is applied, and with it all that was acknowledged before.
    pub(crate) fn leadership(&self) -> Leadership {
        let term = self.core.term();
        let ready = self.applied.1 == term || mutation::on(Mutation::LeadEarly);
        Leadership {
            term,
            leader: self.core.leader(),
            leads: ready && self.core.leads(),
        }
    }

    /// The members, as of the last applied entry.
    #[cfg(test)]
    pub(crate) fn members(&self) -> Members {
        self.core.members().clone()
    }

    /// Answers changes of the members, after the new status was shown.
    pub(crate) fn answer_changes(&mut self) {
        self.waiting.answer_changes();
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}

fn must_sync(work: &Work) -> bool {
    if mutation::on(Mutation::SkipVoteSync) && work.entries.is_empty() {
        return false;
    }
    if mutation::on(Mutation::AckBeforeSync) && !work.entries.is_empty() {
        return false;
    }
    work.must_sync()
}

/// Where each founder of a group starts: one entry, which is in a snapshot and in no log, so that whoever joins later
/// needs a snapshot and learns from it who the members are.
fn found(members: Members, state: &impl StateMachine) -> SavedSnapshot {
    SavedSnapshot {
        index: 1,
        term: 1,
        members,
        state: state.snapshot(),
    }
}

fn forget_members(recovered: &mut Recovered, initial: &Members) {
    recovered.members = None;
    recovered.commit = recovered.snapshot.as_ref().map_or(0, |saved| saved.index);
    if let Some(snapshot) = &mut recovered.snapshot {
        snapshot.members = initial.clone();
    }
}
