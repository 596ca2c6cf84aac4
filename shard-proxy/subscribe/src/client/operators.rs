//! Which operator is asked next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;

use super::connect::StreamError;

/// Time for one name to be resolved.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Replicas of the operator behind names that are resolved anew for each round.
pub(super) struct Operators {
    names: Vec<String>,
    shard: u32,
    /// Those of this round that were not asked yet.
    left: VecDeque<SocketAddr>,
    /// How many there are in this round.
    known: usize,
    /// One that a stream was lost of: last in its round.
    lost: Option<SocketAddr>,
}

impl Operators {
    pub(super) fn new(names: Vec<String>, shard: u32) -> Self {
        Self {
            names,
            shard,
            left: VecDeque::new(),
            known: 0,
            lost: None,
        }
    }

    /// The next one. Resolves when a round begins.
    ///
    /// # Errors
    /// [`StreamError::Resolve`] when no name has an address.
    pub(super) async fn next(&mut self) -> Result<SocketAddr, StreamError> {
        if self.left.is_empty() {
            let found = resolve(&self.names).await?;
            self.left = in_turn(found, self.shard, self.lost.take());
            self.known = self.left.len();
        }
        self.left.pop_front().ok_or(StreamError::Ended)
    }

    /// Whether another one than the last is known.
    pub(super) fn others(&self) -> bool {
        self.known > 1
    }

    /// Whether all of this round were asked.
    pub(super) fn round_over(&self) -> bool {
        self.left.is_empty()
    }

    /// A stream that was of use is lost: a new round begins, with this one last.
    pub(super) fn lost(&mut self, address: SocketAddr) {
        self.left.clear();
        self.lost = Some(address);
    }
}

/// Each once, beginning at a place that depends on the shard, so that shards spread over replicas whatever order names are
/// answered in.
fn in_turn(
    mut found: Vec<SocketAddr>,
    shard: u32,
    lost: Option<SocketAddr>,
) -> VecDeque<SocketAddr> {
    found.sort_unstable();
    found.dedup();
    let mut turn = VecDeque::from(found);
    if !turn.is_empty() {
        turn.rotate_left(shard as usize % turn.len());
    }
    if let Some(lost) = lost
        && let Some(at) = turn.iter().position(|address| *address == lost)
    {
        turn.remove(at);
        turn.push_back(lost);
    }
    turn
}

/// All addresses of all names. A name without any is passed over while another one has some.
async fn resolve(names: &[String]) -> Result<Vec<SocketAddr>, StreamError> {
    let mut found = Vec::new();
    let mut failed = None;
    for name in names {
        let answer = tokio::time::timeout(RESOLVE_WITHIN, lookup_host(name)).await;
        match answer.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Ok(addresses) => found.extend(addresses),
            Err(source) => {
                failed = Some(StreamError::Resolve {
                    operator: name.clone(),
                    source,
                });
            }
        }
    }
    match failed {
        Some(failed) if found.is_empty() => Err(failed),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn addresses(of: &[&str]) -> Vec<SocketAddr> {
        of.iter()
            .map(|text| format!("{text}:7000").parse().unwrap())
            .collect()
    }

    #[test]
    fn shards_begin_at_different_replicas_whatever_the_order_of_answers() {
        let (a, b, c) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
        let check = |shard, lost: Option<&str>, expected: &[&str]| {
            let lost = lost.map(|lost| addresses(&[lost])[0]);
            for answer in [[a, b, c, a], [c, a, b, b]] {
                let turn = in_turn(addresses(&answer), shard, lost);
                assert_eq!(turn, addresses(expected), "{shard} {lost:?}");
            }
        };
        check(0, None, &[a, b, c]);
        check(1, None, &[b, c, a]);
        check(5, None, &[c, a, b]);
        check(1, Some(b), &[c, a, b]);
        check(1, Some("10.0.0.9"), &[b, c, a]);
        assert!(in_turn(Vec::new(), 3, None).is_empty());
    }

    #[tokio::test]
    async fn a_round_asks_all_and_the_next_resolves_again() {
        let names = ["127.0.0.1:1", "127.0.0.1:2"].map(String::from);
        let mut operators = Operators::new(names.into(), 1);
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(operators.next().await.unwrap().port());
            assert!(operators.others());
        }
        assert_eq!(asked, [2, 1, 2, 1]);
        assert!(operators.round_over());
        operators.next().await.unwrap();
        operators.lost("127.0.0.1:2".parse().unwrap());
        assert_eq!(operators.next().await.unwrap().port(), 1);
        assert!(!operators.round_over());

        let mut nowhere = Operators::new(vec!["no port".into()], 0);
        let error = nowhere.next().await.unwrap_err();
        assert!(matches!(error, StreamError::Resolve { .. }), "{error}");
        let some = ["no port", "127.0.0.1:3"].map(String::from);
        let mut some = Operators::new(some.into(), 0);
        assert_eq!(some.next().await.unwrap().port(), 3);
        assert!(!some.others());
    }
}
