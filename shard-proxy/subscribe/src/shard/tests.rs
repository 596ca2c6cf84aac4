#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::net::{IpAddr, Ipv4Addr};

use api::{BackendKey, CertificateKey, RouteKey, RouteKind, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, GatewayEntry, ListenerProtocol, ListenerSpec, PathMatch, RouteMatch,
    RuleSpec, Timeouts,
};
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{EntrySet, Fact, FactKey, GatewayEntryKey, Op, encode};
use api_wire::ops_to_wire;
use proptest::prelude::*;

use super::*;
use crate::PrepareFailure;

/// Serves tables whose ports all have a binding.
#[derive(Default)]
pub(crate) struct FakePlane {
    /// By Gateway: revision, rules, and the addresses that are bound.
    serving: Mutex<BTreeMap<String, Prepared>>,
    /// How many tables were activated by each call.
    activations: Mutex<Vec<usize>>,
    certificates: Mutex<Vec<usize>>,
    /// Gateways that others serve.
    left: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    gateway: String,
    revision: Revision,
    rules: usize,
    ports: Vec<u16>,
}

impl Plane for FakePlane {
    type Backend = BackendKey;
    type Prepared = Prepared;

    fn backend(&self, key: &BackendKey) -> BackendKey {
        key.clone()
    }

    fn set_backend(&self, _: &BackendKey, _: &Backend) {}

    fn remove_backend(&self, _: &BackendKey) {}

    fn change_certificates(
        &self,
        changes: Vec<(CertificateKey, Option<Certificate>)>,
    ) -> Vec<String> {
        if !changes.is_empty() {
            self.certificates.lock().push(changes.len());
        }
        Vec::new()
    }

    fn prepare(
        &self,
        table: shard_proxy_table::SubTable<BackendKey>,
        bindings: &BTreeMap<u16, Binding>,
    ) -> Result<Prepared, PrepareFailure> {
        let mut ports = Vec::new();
        for port in table.ports() {
            let Some(binding) = bindings.get(&port) else {
                return Err(PrepareFailure {
                    listener: Some("web".into()),
                    port_unavailable: false,
                    message: format!("port {port} has no binding"),
                });
            };
            ports.push(binding.target_port);
        }
        Ok(Prepared {
            gateway: table.gateway().name.clone(),
            revision: table.revision(),
            rules: table.rule_count(),
            ports,
        })
    }

    async fn activate(&self, prepared: Vec<Prepared>) {
        self.activations.lock().push(prepared.len());
        for prepared in prepared {
            let name = prepared.gateway.clone();
            self.serving.lock().insert(name, prepared);
        }
    }

    async fn remove(&self, gateway: &GatewayKey) {
        self.serving.lock().remove(&gateway.name);
    }

    async fn leave(&self, gateway: &GatewayKey) {
        self.serving.lock().remove(&gateway.name);
        self.left.lock().push(gateway.name.clone());
    }

    fn load(&self) -> (u64, u64, u64) {
        (0, 0, 0)
    }
}

/// The shard, and what the operator knows of it.
struct Test {
    shard: Shard<FakePlane>,
    facts: EntrySet,
    facts_revision: u64,
    changes: Vec<Change>,
}

impl Test {
    fn new() -> Self {
        Self {
            shard: Shard::new(Arc::default()),
            facts: EntrySet::default(),
            facts_revision: 0,
            changes: Vec::new(),
        }
    }

    /// Gives the shard a message; its answers in short.
    async fn take(&mut self, message: to_shard::Message) -> Vec<String> {
        let message = ToShard {
            message: Some(message),
            traceparent: String::new(),
        };
        let outcome = self.shard.take(message).await;
        self.changes.extend(outcome.changes);
        outcome.answers.iter().map(text).collect()
    }

    async fn facts(&mut self, ops: &[Op]) -> Vec<String> {
        for op in ops {
            self.facts.apply(op);
        }
        let base = self.facts_revision;
        self.facts_revision += 1;
        let message = delivery::Facts {
            base,
            revision: self.facts_revision,
            ops: ops_to_wire(ops),
            hash: self.facts.hash().to_bytes().to_vec(),
            ..delivery::Facts::default()
        };
        self.take(to_shard::Message::Facts(message)).await
    }

    async fn step(&mut self, entries: &mut EntrySet, at: (u64, u64), ops: &[Op]) -> Vec<String> {
        let message = step(entries, at, ops, false);
        self.take(to_shard::Message::Prepare(message)).await
    }

    async fn whole(&mut self, entries: &EntrySet, revision: u64) -> Vec<String> {
        let ops: Vec<Op> = ops_of(entries);
        let message = step(&mut EntrySet::default(), (0, revision), &ops, true);
        self.take(to_shard::Message::Prepare(message)).await
    }

    async fn activate(&mut self, revision: u64) -> Vec<String> {
        let message = delivery::Activate {
            gateway: Some((&web()).into()),
            revision,
        };
        self.take(to_shard::Message::Activate(message)).await
    }

    async fn welcome(&mut self, epoch: u64) {
        let message = delivery::Welcome { epoch };
        let answers = self.take(to_shard::Message::Welcome(message)).await;
        assert!(answers.is_empty());
    }

    fn serving(&self) -> Option<(u64, usize, Vec<u16>)> {
        let serving = self.shard.plane.serving.lock();
        let web = serving.get("web")?;
        Some((web.revision.0, web.rules, web.ports.clone()))
    }
}

fn ops_of(entries: &EntrySet) -> Vec<Op> {
    let entries = entries.iter();
    entries
        .map(|(key, value)| Op {
            key: key.to_vec(),
            value: Some(value.to_vec()),
        })
        .collect()
}

pub(crate) fn step(
    entries: &mut EntrySet,
    (base, revision): (u64, u64),
    ops: &[Op],
    replace: bool,
) -> delivery::Prepare {
    for op in ops {
        entries.apply(op);
    }
    delivery::Prepare {
        gateway: Some((&web()).into()),
        base,
        revision,
        ops: ops_to_wire(ops),
        replace,
        hash: entries.hash().to_bytes().to_vec(),
        ..delivery::Prepare::default()
    }
}

pub(crate) fn text(answer: &FromShard) -> String {
    match answer.message.clone().unwrap() {
        from_shard::Message::Prepared(m) => format!("prepared {}", m.revision),
        from_shard::Message::Acknowledged(m) => format!("acknowledged {}", m.revision),
        from_shard::Message::Refused(m) => {
            let entry = if m.entry.is_empty() { "" } else { " entry" };
            format!("refused {}{entry}", m.revision)
        }
        from_shard::Message::Busy(m) => format!("busy {} {} ms", m.revision, m.extend_ms),
        from_shard::Message::Resync(m) => {
            format!("resync {}", m.gateway.map_or("facts".into(), |g| g.name))
        }
        from_shard::Message::Hello(_) => "hello".into(),
        from_shard::Message::Load(_) => "load".into(),
    }
}

pub(crate) fn web() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

pub(crate) fn listener(name: &str, port: u16) -> Op {
    let spec = ListenerSpec {
        port,
        protocol: ListenerProtocol::Http,
        hostname: None,
        certificates: Vec::new(),
    };
    let key = GatewayEntryKey::Listener(name.into());
    Op::put(&key, &GatewayEntry::Listener(spec))
}

fn rule_key(name: &str) -> GatewayEntryKey {
    let route = RouteKey {
        kind: RouteKind::HttpRoute,
        namespace: "team-a".into(),
        name: name.into(),
    };
    GatewayEntryKey::Rule(route, 0)
}

pub(crate) fn rule(name: &str) -> Op {
    let spec = RuleSpec {
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
            path: PathMatch::Prefix(format!("/{name}")),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
    };
    Op::put(&rule_key(name), &GatewayEntry::Rule(spec))
}

/// A rule of a version that this one does not know.
fn unknown_rule(name: &str) -> Op {
    Op {
        key: encode(&rule_key(name)),
        value: Some(b"\xff of the future".to_vec()),
    }
}

fn binding(gateway: &GatewayKey, port: u16, target_port: u16) -> Op {
    let binding = Binding {
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        public_port: port,
        target_port,
    };
    let key = FactKey::Binding(gateway.clone(), port);
    Op::put(&key, &Fact::Binding(binding))
}

/// A shard that serves `web` with one rule at a revision of a history.
async fn serving(epoch: u64, revision: u64) -> (Test, EntrySet) {
    let mut test = Test::new();
    let mut entries = EntrySet::default();
    test.welcome(epoch).await;
    test.facts(&[binding(&web(), 80, 2000)]).await;
    let ops = [listener("web", 80), rule("a")];
    let answers = test.step(&mut entries, (0, revision), &ops).await;
    assert_eq!(answers, [format!("prepared {revision}")]);
    let answers = test.activate(revision).await;
    assert_eq!(answers, [format!("acknowledged {revision}")]);
    (test, entries)
}

#[tokio::test]
async fn revisions_of_another_history_are_newer_whatever_their_number() {
    let (mut test, mut entries) = serving(3, 8817).await;
    test.welcome(7).await;
    assert_eq!(test.serving().unwrap().0, 8817, "it serves on");
    entries.apply(&rule("b"));
    assert_eq!(test.whole(&entries, 2).await, ["prepared 2"]);
    assert_eq!(test.serving().unwrap().1, 1, "until it is activated");
    assert_eq!(test.activate(2).await, ["acknowledged 2"]);
    assert_eq!(test.serving(), Some((2, 2, vec![2000])));
    assert!(test.changes.contains(&Change::Epoch(Epoch(7))));
    let served = test.shard.served().list();
    assert_eq!(served[&web()], (Revision(2), 2));
}

#[tokio::test]
async fn within_a_history_older_never_replaces_newer() {
    let (mut test, entries) = serving(3, 50).await;
    test.welcome(3).await;
    assert_eq!(test.whole(&entries, 20).await, [""; 0]);
    assert_eq!(test.activate(20).await, ["acknowledged 50"]);
    // The same revision is taken: it is sent when the shard holds something else under that name.
    let mut other = entries.clone();
    other.apply(&rule("b"));
    assert_eq!(test.whole(&other, 50).await, ["prepared 50"]);
    assert_eq!(test.activate(50).await, ["acknowledged 50"]);
    assert_eq!(test.serving().unwrap().1, 2);
}

#[tokio::test]
async fn a_step_that_could_not_be_bound_is_tried_again() {
    let (mut test, mut entries) = serving(3, 5).await;
    let ops = [listener("more", 81)];
    assert_eq!(test.step(&mut entries, (5, 6), &ops).await, ["refused 6"]);
    // The operator says the same again: nothing has changed.
    assert_eq!(test.step(&mut entries, (5, 6), &ops).await, ["refused 6"]);
    let answers = test.facts(&[binding(&web(), 81, 2001)]).await;
    assert_eq!(answers, ["prepared 6"]);
    assert_eq!(test.step(&mut entries, (5, 6), &ops).await, ["prepared 6"]);
    assert_eq!(test.activate(6).await, ["acknowledged 6"]);
    assert_eq!(test.serving().unwrap().2, [2000, 2001]);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_named_and_refused_until_it_is_gone() {
    let (mut test, mut entries) = serving(3, 5).await;
    let answers = test.step(&mut entries, (5, 6), &[unknown_rule("x")]).await;
    assert_eq!(answers, ["refused 6 entry"]);
    let answers = test.step(&mut entries, (6, 7), &[rule("b")]).await;
    assert_eq!(answers, ["refused 7 entry"]);
    assert_eq!(test.activate(6).await, ["refused 6 entry"]);
    assert_eq!(test.activate(7).await, ["refused 7 entry"]);
    assert_eq!(test.shard.status().resyncs, 0);
    assert_eq!(test.serving().unwrap().0, 5);
    // The operator leaves it out: what was left out with it comes too.
    let ops = [Op::remove(&rule_key("x"))];
    assert_eq!(test.step(&mut entries, (7, 8), &ops).await, ["prepared 8"]);
    test.changes.clear();
    assert_eq!(test.activate(8).await, ["acknowledged 8"]);
    assert_eq!(test.serving().unwrap().1, 2);
    let Change::Gateway { base, ops, .. } = &test.changes[0] else {
        panic!("{:?}", test.changes)
    };
    assert_eq!((*base, ops.len()), (Some(Revision(5)), 2));
    let answers = test.step(&mut entries, (8, 9), &[rule("c")]).await;
    assert_eq!(answers, ["prepared 9"]);
}

#[tokio::test]
async fn a_gateway_that_cannot_be_read_whole_is_refused_without_asking_again() {
    let (mut test, mut entries) = serving(3, 5).await;
    entries.apply(&unknown_rule("x"));
    assert_eq!(test.whole(&entries, 9).await, ["refused 9 entry"]);
    assert_eq!(test.activate(9).await, ["refused 9 entry"]);
    let answers = test.step(&mut entries, (9, 10), &[rule("b")]).await;
    assert_eq!(answers, ["refused 10 entry"]);
    let ops = [Op::remove(&rule_key("x"))];
    assert_eq!(
        test.step(&mut entries, (10, 11), &ops).await,
        ["prepared 11"]
    );
    assert_eq!(test.activate(11).await, ["acknowledged 11"]);
    assert_eq!(test.serving(), Some((11, 2, vec![2000])));
}

#[tokio::test]
async fn a_gap_is_asked_about_once_until_the_answer_comes() {
    let (mut test, mut entries) = serving(3, 5).await;
    let mut unseen = entries.clone();
    step(&mut unseen, (5, 6), &[rule("b")], false);
    let answers = test.step(&mut unseen.clone(), (6, 7), &[rule("c")]).await;
    assert_eq!(answers, ["resync web"]);
    assert_eq!(test.activate(7).await, [""; 0]);
    assert_eq!(test.whole(&unseen, 6).await, ["prepared 6"]);
    assert_eq!(test.activate(6).await, ["acknowledged 6"]);
    let answers = test.step(&mut entries, (7, 8), &[rule("d")]).await;
    assert_eq!(answers, ["resync web"], "and of the next gap anew");
}

#[tokio::test]
async fn bindings_that_change_between_prepare_and_activate_count() {
    let (mut test, mut entries) = serving(3, 5).await;
    assert_eq!(
        test.step(&mut entries, (5, 6), &[rule("b")]).await,
        ["prepared 6"]
    );
    test.facts(&[binding(&web(), 80, 3000)]).await;
    assert_eq!(test.serving(), Some((5, 1, vec![3000])));
    test.activate(6).await;
    assert_eq!(test.serving(), Some((6, 2, vec![3000])));
}

#[tokio::test]
async fn sockets_follow_bindings_even_if_the_facts_have_another_hash() {
    let (mut test, _) = serving(3, 5).await;
    let message = delivery::Facts {
        base: test.facts_revision,
        revision: 9,
        ops: ops_to_wire(&[binding(&web(), 80, 3000)]),
        hash: vec![7; 32],
        ..delivery::Facts::default()
    };
    test.changes.clear();
    let answers = test.take(to_shard::Message::Facts(message)).await;
    assert_eq!(answers, ["resync facts"]);
    assert_eq!(test.serving(), Some((5, 1, vec![3000])));
    assert_eq!(test.changes, [], "and are not written");
}

#[tokio::test]
async fn an_address_goes_from_one_gateway_to_another_in_one_swap() {
    let (mut test, entries) = serving(3, 5).await;
    let other = GatewayKey::new("team-a", "other");
    test.facts(&[binding(&other, 80, 2500)]).await;
    let ops = ops_of(&entries);
    let mut message = step(&mut EntrySet::default(), (0, 6), &ops, true);
    message.gateway = Some((&other).into());
    test.take(to_shard::Message::Prepare(message)).await;
    let message = delivery::Activate {
        gateway: Some((&other).into()),
        revision: 6,
    };
    test.take(to_shard::Message::Activate(message)).await;
    test.shard.plane.activations.lock().clear();
    test.facts(&[binding(&web(), 80, 2500), binding(&other, 80, 2000)])
        .await;
    assert_eq!(*test.shard.plane.activations.lock(), [2]);
}

#[tokio::test]
async fn a_gateway_that_is_dropped_is_left_to_others_and_one_that_is_gone_is_removed() {
    for dropped in [true, false] {
        let (mut test, _) = serving(7, 5).await;
        if dropped {
            let gateway = Some((&web()).into());
            let drop = to_shard::Message::Drop(delivery::Drop { gateway });
            assert_eq!(test.take(drop).await, [""; 0]);
        } else {
            let nothing = &mut EntrySet::default();
            let mut removal = step(nothing, (5, 6), &[], false);
            removal.removed = true;
            test.take(to_shard::Message::Prepare(removal)).await;
            assert_eq!(test.activate(6).await, ["acknowledged 6"]);
        }
        assert_eq!(test.serving(), None);
        let left = test.shard.plane.left.lock().clone();
        assert_eq!(left.is_empty(), !dropped, "{left:?}");
    }
}

#[tokio::test]
async fn certificates_of_one_message_are_taken_together() {
    let mut test = Test::new();
    let certificate = Certificate {
        chain: Vec::new(),
        key: Vec::new(),
        dns_names: Vec::new(),
        not_after: 0,
    };
    let fact = |n: u32| {
        let key = CertificateKey::new("team-a", &format!("c{n}"));
        let fact = Fact::Certificate(certificate.clone());
        Op::put(&FactKey::Certificate(key), &fact)
    };
    test.facts(&(0..500).map(fact).collect::<Vec<_>>()).await;
    assert_eq!(*test.shard.plane.certificates.lock(), [500]);
}

#[tokio::test]
async fn what_comes_in_parts_counts_with_the_last() {
    let (mut test, mut entries) = serving(3, 5).await;
    let ops: Vec<Op> = ["b", "c", "d"].map(rule).into();
    let whole = step(&mut entries, (5, 6), &ops, false);
    for (part, op) in whole.ops.iter().enumerate() {
        let message = delivery::Prepare {
            ops: vec![op.clone()],
            more: part < 2,
            ..whole.clone()
        };
        let answers = test.take(to_shard::Message::Prepare(message)).await;
        let expected: &[&str] = if part < 2 { &[] } else { &["prepared 6"] };
        assert_eq!(answers, expected);
    }
    assert_eq!(test.activate(6).await, ["acknowledged 6"]);
    assert_eq!(test.serving().unwrap().1, 4);
}

#[tokio::test]
async fn a_large_step_or_one_that_waits_is_said_to_take_longer() {
    let busy = |ops: usize, waits| {
        let op = delivery::Op {
            key: vec![1],
            value: None,
        };
        let prepare = delivery::Prepare {
            gateway: Some((&web()).into()),
            revision: 6,
            ops: vec![op; ops],
            ..delivery::Prepare::default()
        };
        let message = ToShard {
            message: Some(to_shard::Message::Prepare(prepare)),
            traceparent: String::new(),
        };
        Shard::<FakePlane>::busy(&message, waits).map(|answer| text(&answer))
    };
    assert_eq!(busy(999, false), None);
    assert_eq!(busy(10, true).as_deref(), Some("busy 6 600 ms"));
    assert_eq!(busy(20_000, false).as_deref(), Some("busy 6 4000 ms"));
}

#[tokio::test]
async fn what_the_copy_on_disk_has_lost_comes_anew() {
    let (mut test, entries) = serving(3, 5).await;
    let answers = test.shard.ask_for_copy(Some(&web())).answers;
    assert_eq!(text(&answers[0]), "resync web");
    test.changes.clear();
    assert_eq!(test.whole(&entries, 5).await, ["prepared 5"]);
    assert_eq!(test.activate(5).await, ["acknowledged 5"]);
    let Change::Gateway { base, ops, .. } = &test.changes[0] else {
        panic!("{:?}", test.changes)
    };
    assert_eq!((*base, ops.len()), (None, 2));
    assert_eq!(test.shard.all_held(), [None, Some(web())]);
}

/// An operator that sends one Gateway's chain, over a stream on which messages get lost.
#[derive(Default)]
struct Chain {
    /// Entries at each revision, and the operations that led there; the first is active.
    versions: Vec<(u64, EntrySet, Vec<Op>)>,
    next: u64,
}

impl Chain {
    fn commit(&mut self, op: Op) -> delivery::Prepare {
        let (base, mut entries) = self.tip();
        self.next += 1;
        let ops = vec![op];
        let message = step(&mut entries, (base, self.next), &ops, false);
        self.versions.push((self.next, entries, ops));
        message
    }

    fn tip(&self) -> (u64, EntrySet) {
        let tip = self.versions.last();
        tip.map_or_else(Default::default, |(revision, entries, _)| {
            (*revision, entries.clone())
        })
    }

    fn activate(&mut self, back: usize) -> Option<u64> {
        let at = self.versions.len().checked_sub(1 + back)?;
        self.versions.drain(..at);
        Some(self.versions[0].0)
    }

    /// What answers a shard that asks anew.
    fn whole(&self) -> Vec<to_shard::Message> {
        let Some((active, entries, _)) = self.versions.first() else {
            return Vec::new();
        };
        let message = step(
            &mut EntrySet::default(),
            (0, *active),
            &ops_of(entries),
            true,
        );
        let mut messages = vec![to_shard::Message::Prepare(message), activation(*active)];
        for pair in self.versions.windows(2) {
            let (base, mut entries) = (pair[0].0, pair[0].1.clone());
            let message = step(&mut entries, (base, pair[1].0), &pair[1].2, false);
            messages.push(to_shard::Message::Prepare(message));
        }
        messages
    }
}

fn activation(revision: u64) -> to_shard::Message {
    to_shard::Message::Activate(delivery::Activate {
        gateway: Some((&web()).into()),
        revision,
    })
}

proptest! {
    /// Whatever is lost on the way and whatever cannot be read: what is acknowledged is served as it was committed, a
    /// shard does not ask more often than something was lost, and in the end it serves what is active.
    #[test]
    fn a_shard_catches_up_whatever_is_lost_on_the_way(
        steps in proptest::collection::vec((0..8_u8, 0..5_u8, any::<bool>(), 0..6_u8), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut test = Test::new();
            test.facts(&[binding(&web(), 80, 2000)]).await;
            let (mut chain, mut losses, mut asked) = (Chain::default(), 0, 0);
            let mut first = vec![to_shard::Message::Prepare(chain.commit(listener("web", 80)))];
            first.push(activation(1));
            for message in first {
                test.take(message).await;
            }
            let calm = [(0, 0, false, 1), (6, 0, false, 1), (0, 1, false, 1), (6, 0, false, 1)];
            for (action, name, put, loss) in steps.into_iter().chain(calm) {
                let name = format!("r{name}");
                let message = match action {
                    0 | 1 => to_shard::Message::Prepare(chain.commit(rule(&name))),
                    2 | 3 if put => to_shard::Message::Prepare(chain.commit(unknown_rule(&name))),
                    2..=4 => to_shard::Message::Prepare(chain.commit(Op::remove(&rule_key(&name)))),
                    _ => match chain.activate(usize::from(action - 5) % 2) {
                        Some(revision) => activation(revision),
                        None => continue,
                    },
                };
                if loss == 0 {
                    losses += 1;
                    continue;
                }
                let mut waiting = std::collections::VecDeque::from([message]);
                while let Some(message) = waiting.pop_front() {
                    for answer in test.take(message).await {
                        if answer == "resync web" {
                            asked += 1;
                            waiting.extend(chain.whole());
                        }
                        if let Some(revision) = answer.strip_prefix("acknowledged ") {
                            let at = test.serving().map_or(0, |(revision, ..)| revision);
                            prop_assert_eq!(at.to_string(), revision);
                        }
                    }
                }
                prop_assert!(asked <= losses, "{} times for {} losses", asked, losses);
            }
            // Everything can be read in the end.
            let names = (0..5).map(|n| format!("r{n}"));
            for name in names {
                let message = chain.commit(rule(&name));
                test.take(to_shard::Message::Prepare(message)).await;
            }
            let (revision, entries) = chain.tip();
            chain.activate(0);
            test.take(activation(revision)).await;
            let served = test.serving().unwrap();
            prop_assert_eq!((served.0, served.1), (revision, 5));
            let held = &test.shard.gateways[&web()];
            prop_assert_eq!(held.active.hash(), entries.hash());
            // And the copy on disk is the same.
            let mut copy = EntrySet::default();
            let mut at = None;
            for change in &test.changes {
                if let Change::Gateway { base, revision, ops, hash, .. } = change {
                    prop_assert!(base.is_none() || *base == at || at.is_none());
                    if base.is_none() {
                        copy = EntrySet::default();
                    }
                    ops.iter().for_each(|op| copy.apply(op));
                    prop_assert_eq!(copy.hash(), *hash);
                    at = Some(*revision);
                }
            }
            prop_assert_eq!(copy.hash(), entries.hash());
            Ok(())
        })?;
    }
}
