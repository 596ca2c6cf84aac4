//! All members, the network between them, and what happens to them.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot::error::TryRecvError;

use super::Figures;
use super::member::{Asked, Life, Member};
use super::model::Model;
use super::network::{Network, Sent};
use super::roster::{Roster, Task};
use crate::node::mailbox::Request;
use crate::{Observed, ProposeError};

const FOUNDERS: [u64; 3] = [1, 2, 3];
/// Rounds of healing after which a group that does not agree never will.
const ROUNDS_MAX: usize = 3000;

pub(super) struct World {
    seed: u64,
    random: StdRng,
    members: Vec<Member>,
    network: Network,
    model: Model,
    roster: Roster,
    /// Processes of removed members that are to end.
    gone: Vec<u64>,
    /// Its clock hardly moves.
    slow: Option<u64>,
    next_number: u64,
    snapshot_after: u64,
    /// Chances that make each seed another world: crashes and cuts in a thousand steps.
    crashes_per_mille: u32,
    cuts_per_mille: u32,
    plans_per_mille: u32,
    /// Ticks in a hundred steps; the more, the slower is the network.
    ticks_percent: u32,
    /// Chance of a crash right after something was written.
    torn: f64,
    figures: Figures,
}

impl World {
    /// A `rough` world has a lot of everything; others have more or less of each trouble, or none.
    pub(super) fn new(seed: u64, rough: bool) -> Result<Self, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let snapshot_after = random.random_range(8..40);
        let members = FOUNDERS.map(|id| Member::new(id, FOUNDERS.to_vec(), snapshot_after));
        let mut network = Network::default();
        network.lost = [0.0, 0.02, 0.1][random.random_range(0..3)];
        network.doubled = [0.0, 0.02, 0.1][random.random_range(0..3)];
        network.delayed = [0.0, 0.1, 0.5][random.random_range(0..3)];
        let mut world = Self {
            seed,
            members: members.into(),
            network,
            model: Model::default(),
            roster: Roster::new(&FOUNDERS),
            gone: Vec::new(),
            slow: None,
            next_number: 1,
            snapshot_after,
            crashes_per_mille: [0, 3, 10][random.random_range(0..3)],
            cuts_per_mille: [0, 3, 10][random.random_range(0..3)],
            plans_per_mille: [0, 10, 40][random.random_range(0..3)],
            ticks_percent: [15, 28, 50][random.random_range(0..3)],
            torn: [0.0, 0.002, 0.02][random.random_range(0..3)],
            random,
            figures: Figures::default(),
        };
        if rough {
            (world.crashes_per_mille, world.cuts_per_mille) = (20, 10);
            (world.plans_per_mille, world.torn) = (40, 0.02);
        }
        for position in 0..world.members.len() {
            world.start(position)?;
        }
        Ok(world)
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            acknowledged: self.model.acknowledged(),
            leaders: self.model.leaders(),
            ..self.figures
        }
    }

    /// One random event.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let position = self.random.random_range(0..self.members.len());
        let rare = self.random.random_range(0..1000);
        if rare < self.crashes_per_mille {
            return self.trouble(position);
        }
        if rare < self.crashes_per_mille + self.cuts_per_mille {
            self.cut_or_mend();
            return Ok(());
        }
        if self.random.random_range(0..1000) < self.plans_per_mille {
            return self.administer(true);
        }
        if self.random.random_range(0..100) < self.ticks_percent {
            let slow = self.slow == Some(self.members[position].id);
            if slow && self.random.random_bool(0.9) {
                return Ok(());
            }
            return self.tick(position);
        }
        match self.random.random_range(0..100) {
            0..8 => self.propose(position),
            8..10 => self.barrier(),
            _ => self.deliver(),
        }
    }

    /// Cuts the network, often around the leader, whose clock may stand still meanwhile: it goes on leading, it thinks.
    fn cut_or_mend(&mut self) {
        self.slow = None;
        if self.random.random_bool(0.6) {
            return self.network.mend();
        }
        let leads = |member: &&Member| member.life.as_ref().is_some_and(Life::leads);
        let leader = self.members.iter().find(leads).map(|member| member.id);
        let ids: Vec<u64> = self.members.iter().map(|member| member.id).collect();
        self.network.cut(&ids, leader, &mut self.random);
        self.slow = leader.filter(|_| self.random.random_bool(0.5));
    }

    /// A crash now or soon, a full disk, a hand-over, or an end of these.
    fn trouble(&mut self, position: usize) -> Result<(), String> {
        let member = &mut self.members[position];
        match self.random.random_range(0..10) {
            0..2 => self.crash(position),
            2..5 => {
                let steps = member.disk.steps() + self.random.random_range(1..30);
                member.disk.crash_at(Some(steps));
                Ok(())
            }
            5 => {
                if let Some(life) = &mut member.life {
                    life.stopping = true;
                }
                Ok(())
            }
            6 => {
                member.disk.set_full(true);
                Ok(())
            }
            7..9 => self.storm(),
            _ => {
                for member in &mut self.members {
                    member.disk.set_full(false);
                }
                // What is down comes back at its next tick.
                Ok(())
            }
        }
    }

    /// The leader goes and comes back, and everyone's time-out runs out at about the same time: several ask for votes in
    /// one term, and who answers may crash with its vote.
    fn storm(&mut self) -> Result<(), String> {
        let leads = |member: &Member| member.life.as_ref().is_some_and(Life::leads);
        if let Some(leader) = self.members.iter().position(leads) {
            self.crash(leader)?;
        }
        for position in 0..self.members.len() {
            for _ in 0..self.random.random_range(8..24) {
                self.tick(position)?;
            }
        }
        let usual = (self.torn, self.network.delayed);
        (self.torn, self.network.delayed) = (0.1, 0.8);
        for _ in 0..40 {
            self.deliver()?;
        }
        (self.torn, self.network.delayed) = usual;
        Ok(())
    }

    fn tick(&mut self, position: usize) -> Result<(), String> {
        let Some(life) = &mut self.members[position].life else {
            return self.start(position);
        };
        life.driver.tick();
        let stops = life.stopping && life.driver.has_handed_over();
        self.work(position)?;
        if stops {
            self.figures.handed_over += 1;
            return self.crash(position);
        }
        Ok(())
    }

    fn propose(&mut self, position: usize) -> Result<(), String> {
        // Mostly who leads, sometimes anyone.
        let leads = |member: &Member| member.life.as_ref().is_some_and(Life::leads);
        let leader = self.members.iter().position(leads);
        let position = leader
            .filter(|_| self.random.random_bool(0.8))
            .unwrap_or(position);
        let number = self.next_number;
        let Some(life) = &mut self.members[position].life else {
            return Ok(());
        };
        self.next_number += 1;
        life.propose(number);
        self.work(position)
    }

    /// Asks one that leads, if only for raft; sometimes there are two.
    fn barrier(&mut self) -> Result<(), String> {
        let role = |life: &Life| life.driver.status().role == "leader";
        let leads = |member: &Member| member.life.as_ref().is_some_and(role);
        let leading = (0..self.members.len()).filter(|at| leads(&self.members[*at]));
        let leading: Vec<usize> = leading.collect();
        if leading.is_empty() {
            return Ok(());
        }
        let position = leading[self.random.random_range(0..leading.len())];
        let through = self.model.acknowledged_through();
        let Some(life) = &mut self.members[position].life else {
            return Ok(());
        };
        life.barrier(through);
        self.work(position)
    }

    fn deliver(&mut self) -> Result<(), String> {
        let Some((sent, arrives)) = self.network.next(&mut self.random) else {
            return Ok(());
        };
        let Sent {
            from,
            to,
            bytes,
            snapshot,
        } = sent;
        let receiver = self.members.iter().position(|member| member.id == to);
        let receiver = receiver.filter(|at| arrives && self.members[*at].life.is_some());
        // The transport may say what became of it, or not.
        if (snapshot || receiver.is_none()) && self.random.random_bool(0.5) {
            let sender = self.members.iter().position(|member| member.id == from);
            if let Some(sender) = sender
                && let Some(life) = &mut self.members[sender].life
            {
                life.driver.request(if snapshot {
                    Request::SnapshotSent(to, receiver.is_some())
                } else {
                    Request::Unreachable(to)
                });
                self.work(sender)?;
            }
        }
        let Some(position) = receiver else {
            return Ok(());
        };
        let Some(life) = &mut self.members[position].life else {
            return Ok(());
        };
        if life.deliver(&bytes) {
            self.work(position)
        } else {
            self.failed(position)
        }
    }

    /// Lets a member do what there is to do, and checks what it did.
    fn work(&mut self, position: usize) -> Result<(), String> {
        let member = &mut self.members[position];
        let Some(life) = &mut member.life else {
            return Ok(());
        };
        let steps = member.disk.steps();
        let worked = life.driver.work().is_ok();
        let wrote = member.disk.steps() > steps;
        life.driver.answer_changes();
        // What left before a crash is on its way.
        for sent in life.sent.lock().drain(..) {
            self.figures.snapshots_sent += u64::from(sent.snapshot);
            self.network.send(sent);
        }
        self.follow(position)?;
        self.hear(position)?;
        if !worked {
            return self.failed(position);
        }
        let member = &mut self.members[position];
        let Some(life) = &mut member.life else {
            return Ok(());
        };
        let status = life.driver.status();
        if status.role == "leader" {
            self.model.leader(status.term, member.id)?;
        }
        if life.leads() && life.led != status.term {
            life.led = status.term;
            let leads = self.model.leads(status.term, life.followed.0);
            leads.map_err(|text| format!("member {}: {text}; {status:?}", member.id))?;
        }
        if wrote && self.random.random_bool(self.torn) {
            self.crash(position)?;
            // Back so soon that what was on its way to it still arrives.
            if self.random.random_bool(0.5) {
                return self.start(position);
            }
        }
        Ok(())
    }

    /// Holds what happened to the state against the model.
    fn follow(&mut self, position: usize) -> Result<(), String> {
        let id = self.members[position].id;
        let Some(life) = &mut self.members[position].life else {
            return Ok(());
        };
        let says = |text: String| format!("member {id}: {text}");
        let mut state = life.state.write();
        for event in state.events.drain(..) {
            life.followed = self.model.follow(life.followed, event).map_err(says)?;
        }
        if (state.last, state.hash) != life.followed {
            return Err(says("its state is not what it applied".to_owned()));
        }
        // The observer heard of the same, but for what was applied at the start.
        if let Some(Observed::Applied(newest)) = life.observed.lock().drain(..).next_back()
            && newest.index != state.last
        {
            let text = format!("the observer is at {} and not {}", newest.index, state.last);
            return Err(says(text));
        }
        Ok(())
    }

    /// Looks for answers.
    fn hear(&mut self, position: usize) -> Result<(), String> {
        let id = self.members[position].id;
        let Some(life) = &mut self.members[position].life else {
            return Ok(());
        };
        let last = life.followed.0;
        let mut removed = None;
        for mut asked in std::mem::take(&mut life.asked) {
            match &mut asked {
                Asked::Proposal {
                    number,
                    term,
                    answer,
                } => match answer.try_recv() {
                    Ok(Ok(committed)) => {
                        if committed.output != *number {
                            let output = committed.output;
                            return Err(format!(
                                "member {id}: {number} got the answer of {output}"
                            ));
                        }
                        self.model.acknowledge(*term, committed.index, *number)?;
                    }
                    Ok(Err(error)) => refused(&error)?,
                    Err(TryRecvError::Empty) => life.asked.push(asked),
                    Err(TryRecvError::Closed) => {}
                },
                Asked::Barrier { through, answer } => match answer.try_recv() {
                    Ok(Ok(())) if last < *through => {
                        return Err(format!(
                            "member {id}: a barrier passed at {last}, {through} was acknowledged"
                        ));
                    }
                    Ok(Ok(())) => self.figures.barriers += 1,
                    Ok(Err(error)) => refused(&error)?,
                    Err(TryRecvError::Empty) => life.asked.push(asked),
                    Err(TryRecvError::Closed) => {}
                },
                Asked::Change { change, answer } => match answer.try_recv() {
                    Ok(Ok(())) => {
                        self.figures.changes += 1;
                        if let Some(Task::Remove(id)) = self.roster.made(*change) {
                            removed = Some(id);
                        }
                    }
                    Ok(Err(_)) => {}
                    Err(TryRecvError::Empty) => life.asked.push(asked),
                    Err(TryRecvError::Closed) => {}
                },
            }
        }
        if let Some(removed) = removed
            && removed != id
            && self.random.random_bool(0.7)
        {
            // Others run on and do not know.
            self.gone.push(removed);
        }
        Ok(())
    }

    /// The disk failed, which it does only when it crashes or is full.
    fn failed(&mut self, position: usize) -> Result<(), String> {
        let member = &mut self.members[position];
        let asked_for = member.disk.crashed() || member.disk.is_full();
        if !asked_for {
            return Err(format!("member {}: the disk failed unasked", member.id));
        }
        self.crash(position)
    }

    /// Ends a life. What the disk had not synced may be lost. It comes back at its next tick.
    fn crash(&mut self, position: usize) -> Result<(), String> {
        self.figures.crashes += 1;
        let member = &mut self.members[position];
        member.life = None;
        member.disk = if self.random.random_bool(0.3) {
            member.disk.after_kill()
        } else {
            member.disk.after_power_loss(self.random.random())
        };
        Ok(())
    }

    fn start(&mut self, position: usize) -> Result<(), String> {
        let member = &mut self.members[position];
        member.start(self.seed)?;
        if member.life.is_none() {
            return self.crash(position);
        }
        self.work(position)
    }

    /// Does something about the members, and plans anew when all is done.
    fn administer(&mut self, plan: bool) -> Result<(), String> {
        if self.roster.is_idle() {
            if plan && self.random.random_bool(0.3) {
                self.roster.plan(&mut self.random);
            }
            return Ok(());
        }
        if let Some(Task::Lose(id)) = self.roster.current() {
            self.members.retain(|member| member.id != id);
            self.roster.done();
            return Ok(());
        }
        let gone = std::mem::take(&mut self.gone);
        self.members.retain(|member| !gone.contains(&member.id));
        let leads = |member: &Member| member.life.as_ref().is_some_and(Life::leads);
        let leaders: Vec<usize> = (0..self.members.len())
            .filter(|at| leads(&self.members[*at]))
            .collect();
        let Some(leader) = leaders.first().copied() else {
            return Ok(());
        };
        let Some(life) = &mut self.members[leader].life else {
            return Ok(());
        };
        if life.is_changing() {
            return Ok(());
        }
        if let Some(change) = self.roster.change(&life.driver.members()) {
            life.change(change);
            self.work(leader)?;
        }
        self.begin_member()
    }

    /// Starts the process of a member that is to be added, on an empty disk.
    fn begin_member(&mut self) -> Result<(), String> {
        let Some(Task::Add(id)) = self.roster.current() else {
            return Ok(());
        };
        if self.members.iter().any(|member| member.id == id) {
            return Ok(());
        }
        self.members
            .push(Member::new(id, Vec::new(), self.snapshot_after));
        self.start(self.members.len() - 1)
    }

    /// Everything works again; runs until all members have applied the same, with a last proposal.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.network.heal();
        self.torn = 0.0;
        for member in &mut self.members {
            member.disk.set_full(false);
            member.disk.crash_at(None);
            if let Some(life) = &mut member.life {
                life.stopping = false;
            }
        }
        for position in 0..self.members.len() {
            if self.members[position].disk.crashed() {
                self.crash(position)?;
            }
        }
        let mut acknowledged = None;
        for round in 0..ROUNDS_MAX {
            for position in 0..self.members.len() {
                self.tick(position)?;
            }
            let mut messages = 0;
            while !self.network.is_empty() && messages < 1000 {
                self.deliver()?;
                messages += 1;
            }
            self.administer(false)?;
            if !self.roster.is_idle() || round % 20 != 19 {
                continue;
            }
            let known = *acknowledged.get_or_insert(self.model.acknowledged());
            if self.model.acknowledged() > known && self.agrees() {
                return Ok(());
            }
            self.propose(0)?;
        }
        let states = self.members.iter().map(|member| {
            let life = member.life.as_ref();
            let life = life.map(|life| (life.driver.status(), life.followed));
            format!("{}: {life:?}", member.id)
        });
        let states: Vec<_> = states.collect();
        Err(format!("the members never agreed: {}", states.join("; ")))
    }

    /// Whether all who are members have applied all that anyone has.
    fn agrees(&self) -> bool {
        let leads = |member: &&Member| member.life.as_ref().is_some_and(Life::leads);
        let Some(leader) = self.members.iter().find(leads) else {
            return false;
        };
        let Some(members) = leader.life.as_ref().map(|life| life.driver.members()) else {
            return false;
        };
        let all = members.voters.iter().chain(&members.learners);
        let newest = self.model.newest();
        // Equal through the same index: the model has seen to it that the states are, too.
        all.clone().all(|id| {
            let member = self.members.iter().find(|member| member.id == *id);
            let life = member.and_then(|member| member.life.as_ref());
            life.is_some_and(|life| life.followed.0 == newest)
        })
    }
}

/// Refusals are as good as any answer, but for those that cannot be.
fn refused(error: &ProposeError) -> Result<(), String> {
    match error {
        ProposeError::NotLeader { .. }
        | ProposeError::LeadershipLost
        | ProposeError::NoRoom(_)
        | ProposeError::Stopped => Ok(()),
        other => Err(format!("refused with {other}")),
    }
}
