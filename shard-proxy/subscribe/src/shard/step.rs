//! The configuration lane: steps of a Gateway, prepared beside what serves and then activated.
//!
//! A step that holds an entry which cannot be read is refused, and so are those that build on it, until one of them
//! writes or removes that entry: from then on all of them are one step.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use api_snapshot::facts::Binding;
use api_snapshot::{Op, SetHash};
use api_wire::delivery::{self, FromShard};
use api_wire::{WireError, gateway_key, ops_from_wire, set_hash};
use shard_proxy_table::{ApplyError, SubTable};

use super::{Outcome, Shard, answers};
use crate::Plane;
use crate::disk::Change;

/// One Gateway.
pub(super) struct Held<P: Plane> {
    pub(super) active: SubTable<P::Backend>,
    pub(super) serves: bool,
    /// Prepared or refused steps after the active table, oldest first.
    next: Vec<Next<P>>,
    /// What comes after them and cannot be read.
    unread: Option<Unread>,
}

struct Next<P: Plane> {
    table: SubTable<P::Backend>,
    /// None when it cannot be bound, or could not when that was last tried.
    prepared: Option<P::Prepared>,
    removed: bool,
    replace: bool,
    ops: Vec<Op>,
    /// Of steps before it that are part of it, because they cannot be read: from where on, and why not.
    refused: Option<(Revision, Unreadable)>,
}

/// Steps that cannot be read. Bounded by the entries of the Gateway.
struct Unread {
    first: Revision,
    revision: Revision,
    replace: bool,
    ops: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    why: Unreadable,
}

/// Why a step is refused.
#[derive(Clone)]
struct Unreadable {
    entry: Vec<u8>,
    reason: String,
}

impl Unreadable {
    fn answer(&self, gateway: &GatewayKey, revision: Revision) -> FromShard {
        answers::unreadable(gateway, revision, self.entry.clone(), self.reason.clone())
    }
}

/// A step as it came.
struct Step {
    base: Revision,
    revision: Revision,
    hash: SetHash,
    replace: bool,
    removed: bool,
    ops: Vec<Op>,
}

impl<P: Plane> Held<P> {
    fn new(gateway: GatewayKey) -> Self {
        Self {
            active: SubTable::empty(gateway),
            serves: false,
            next: Vec::new(),
            unread: None,
        }
    }

    pub(super) fn forget_steps(&mut self) {
        self.next.clear();
        self.unread = None;
    }

    /// The same table at revision 0: it is of a history that is over.
    pub(super) fn renumber(&mut self) {
        self.forget_steps();
        let (revision, hash) = (self.active.revision(), self.active.hash());
        // Nothing changes, so no backend is asked for and no hash can differ.
        let same = self
            .active
            .apply(revision, Revision(0), false, &[], hash, &mut |_| {
                unreachable!("no entry is new")
            });
        if let Ok(same) = same {
            self.active = same;
        }
    }

    /// The newest table that steps build on.
    fn top(&self) -> &SubTable<P::Backend> {
        self.next.last().map_or(&self.active, |next| &next.table)
    }

    /// Binds prepared steps anew, and those that could not be bound.
    pub(super) fn rebind(
        &mut self,
        gateway: &GatewayKey,
        plane: &P,
        bindings: &BTreeMap<u16, Binding>,
        outcome: &mut Outcome,
    ) {
        for next in &mut self.next {
            let before = next.prepared.take().is_some();
            // A failure is said when it matters: when the step is to be activated.
            if let Ok(ready) = plane.prepare(next.table.clone(), bindings) {
                next.prepared = Some(ready);
                if !before {
                    let revision = next.table.revision();
                    outcome.answers.push(answers::prepared(gateway, revision));
                }
            }
        }
    }
}

impl<P: Plane> Shard<P> {
    pub(super) fn prepare(
        &mut self,
        message: delivery::Prepare,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        let mut step = Step {
            base: Revision(message.base),
            revision: Revision(message.revision),
            hash: set_hash(&message.hash)?,
            replace: message.replace,
            removed: message.removed,
            ops: ops_from_wire(message.ops),
        };
        let held = self
            .gateways
            .entry(key.clone())
            .or_insert_with(|| Held::new(key.clone()));
        if step.replace {
            self.asked.remove(&Some(key.clone()));
            if held.serves && step.revision < held.active.revision() {
                return Ok(()); // older never replaces newer
            }
            held.forget_steps();
        } else if held.unread.is_none() && step.revision <= held.top().revision() {
            self.prepare_again(&key, step.revision, outcome);
            return Ok(());
        }
        if let Some(unread) = &held.unread {
            if step.base != unread.revision {
                // Sent again, or a gap.
                if step.revision <= unread.revision {
                    outcome.answers.push(unread.why.answer(&key, step.revision));
                } else {
                    let reason = format!("{} builds on {}", step.revision, step.base);
                    self.resync(Some(&key), reason, outcome);
                }
                return Ok(());
            }
            step.build_on(unread, held.top().revision());
        }
        let plane = std::sync::Arc::clone(&self.plane);
        match step.apply_to(held.top(), &*plane) {
            Ok(table) => self.prepared(&key, step, table, outcome),
            Err(ApplyError::Unreadable(reason)) => {
                let entry = step.unreadable_entry(&key, &*plane);
                let why = Unreadable { entry, reason };
                outcome.answers.push(why.answer(&key, step.revision));
                let before = held.unread.as_ref().map(|unread| unread.first);
                held.unread = Some(Unread {
                    first: before.unwrap_or(step.revision),
                    revision: step.revision,
                    replace: step.replace,
                    ops: step.ops.into_iter().map(|op| (op.key, op.value)).collect(),
                    why,
                });
            }
            Err(error) => self.resync(Some(&key), error.to_string(), outcome),
        }
        Ok(())
    }

    /// A step that is held is sent again: it may be possible to bind it by now.
    fn prepare_again(&mut self, key: &GatewayKey, revision: Revision, outcome: &mut Outcome) {
        let bindings = self.bindings.get(key).cloned().unwrap_or_default();
        let next = self.gateways.get_mut(key).and_then(|held| {
            let mut steps = held.next.iter_mut();
            steps.find(|next| next.table.revision() == revision)
        });
        let Some(next) = next else {
            return; // it serves, or something newer does
        };
        if next.prepared.is_none() {
            match self.plane.prepare(next.table.clone(), &bindings) {
                Ok(ready) => next.prepared = Some(ready),
                Err(failure) => {
                    outcome
                        .answers
                        .push(answers::failed(key, revision, failure));
                    return;
                }
            }
        }
        outcome.answers.push(answers::prepared(key, revision));
    }

    fn prepared(
        &mut self,
        key: &GatewayKey,
        step: Step,
        table: SubTable<P::Backend>,
        outcome: &mut Outcome,
    ) {
        let bindings = self.bindings.get(key).cloned().unwrap_or_default();
        let (answer, ready) = match self.plane.prepare(table.clone(), &bindings) {
            Ok(ready) => (answers::prepared(key, step.revision), Some(ready)),
            Err(failure) => (answers::failed(key, step.revision, failure), None),
        };
        outcome.answers.push(answer);
        if let Some(held) = self.gateways.get_mut(key) {
            let unread = held.unread.take();
            held.next.push(Next {
                refused: unread.map(|unread| (unread.first, unread.why)),
                table,
                prepared: ready,
                removed: step.removed,
                replace: step.replace,
                ops: step.ops,
            });
        }
    }

    pub(super) async fn activate(
        &mut self,
        message: delivery::Activate,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        let revision = Revision(message.revision);
        let held = self.gateways.get_mut(&key);
        let at = held.as_ref().and_then(|held| {
            let mut steps = held.next.iter();
            steps.position(|next| next.table.revision() == revision)
        });
        let (Some(held), Some(at)) = (held, at) else {
            self.not_prepared(&key, revision, outcome);
            return Ok(());
        };
        let mut steps: Vec<Next<P>> = held.next.drain(..=at).collect();
        let Some(mut last) = steps.pop() else {
            return Ok(());
        };
        if last.prepared.is_none() && !last.removed {
            // Refused before; the cause may be gone by now.
            let bindings = self.bindings.get(&key).cloned().unwrap_or_default();
            match self.plane.prepare(last.table.clone(), &bindings) {
                Ok(ready) => last.prepared = Some(ready),
                Err(failure) => {
                    outcome
                        .answers
                        .push(answers::failed(&key, revision, failure));
                    steps.push(last);
                    held.next.splice(0..0, steps);
                    return Ok(());
                }
            }
        }
        let mut base = held.active.revision();
        for step in steps.into_iter().map(Next::into_parts) {
            outcome.changes.push(step.change(&key, &mut base));
        }
        let gone = last.removed && held.next.is_empty() && held.unread.is_none();
        held.active = last.table.clone();
        held.serves = !last.removed;
        let (revision, rules) = (held.active.revision(), held.active.rule_count());
        self.served
            .set(&key, held.serves.then_some((revision, rules)));
        let ready = last.prepared.take().filter(|_| !last.removed);
        outcome
            .changes
            .push(last.into_parts().change(&key, &mut base));
        match ready {
            Some(ready) => self.plane.activate(vec![ready]).await,
            None => self.plane.remove(&key).await,
        }
        if gone {
            self.gateways.remove(&key);
        }
        outcome.answers.push(answers::acknowledged(&key, revision));
        Ok(())
    }

    /// A revision that is to be activated is not there.
    fn not_prepared(&mut self, key: &GatewayKey, revision: Revision, outcome: &mut Outcome) {
        if let Some(held) = self.gateways.get(key) {
            if held.serves && held.active.revision() >= revision {
                let answer = answers::acknowledged(key, held.active.revision());
                outcome.answers.push(answer);
                return;
            }
            let of_steps = held.next.iter().filter_map(|next| {
                let (first, why) = next.refused.as_ref()?;
                Some((*first, next.table.revision(), why))
            });
            let unread = held.unread.iter();
            let mut refused = of_steps.chain(unread.map(|u| (u.first, u.revision, &u.why)));
            let why = refused.find(|(first, last, _)| (*first..=*last).contains(&revision));
            if let Some((_, _, why)) = why {
                outcome.answers.push(why.answer(key, revision));
                return;
            }
        }
        let reason = format!("revision {revision} was never prepared");
        self.resync(Some(key), reason, outcome);
    }
}

impl Step {
    /// Takes the place of all steps that cannot be read, and of itself. Of each key the last operation counts.
    fn build_on(&mut self, unread: &Unread, base: Revision) {
        self.base = base;
        if self.removed {
            return;
        }
        self.replace |= unread.replace;
        let mut ops = unread.ops.clone();
        ops.extend(self.ops.drain(..).map(|op| (op.key, op.value)));
        self.ops = ops
            .into_iter()
            .map(|(key, value)| Op { key, value })
            .collect();
    }

    fn apply_to<P: Plane>(
        &self,
        table: &SubTable<P::Backend>,
        plane: &P,
    ) -> Result<SubTable<P::Backend>, ApplyError> {
        if self.removed && !self.replace && table.revision() != self.base {
            return Err(ApplyError::Gap {
                base: self.base,
                have: table.revision(),
            });
        }
        table.apply(
            self.base,
            self.revision,
            self.replace || self.removed,
            &self.ops,
            self.hash,
            &mut |key| plane.backend(key),
        )
    }

    /// The key of the first entry that cannot be read by itself. Cost: O(operations), for a step that is refused.
    fn unreadable_entry<P: Plane>(&self, gateway: &GatewayKey, plane: &P) -> Vec<u8> {
        let empty = SubTable::<P::Backend>::empty(gateway.clone());
        let unreadable = |op: &&Op| {
            let value = op.value.as_ref();
            let hash = value.map_or(SetHash::default(), |value| SetHash::of(&op.key, value));
            let alone = std::slice::from_ref(*op);
            let backends = &mut |key: &_| plane.backend(key);
            let applied = empty.apply(Revision(0), Revision(1), true, alone, hash, backends);
            matches!(applied, Err(ApplyError::Unreadable(_)))
        };
        let op = self.ops.iter().find(unreadable);
        op.map(|op| op.key.clone()).unwrap_or_default()
    }
}

/// What of a step the copy on disk needs.
struct Activated {
    revision: Revision,
    hash: SetHash,
    replace: bool,
    removed: bool,
    ops: Vec<Op>,
}

impl<P: Plane> Next<P> {
    fn into_parts(self) -> Activated {
        Activated {
            revision: self.table.revision(),
            hash: self.table.hash(),
            replace: self.replace,
            removed: self.removed,
            ops: self.ops,
        }
    }
}

impl Activated {
    /// The change that this is on top of `base`, which becomes its revision.
    fn change(self, gateway: &GatewayKey, base: &mut Revision) -> Change {
        let base = std::mem::replace(base, self.revision);
        Change::Gateway {
            gateway: gateway.clone(),
            base: (!self.replace).then_some(base),
            revision: self.revision,
            hash: self.hash,
            removed: self.removed,
            ops: self.ops,
        }
    }
}
