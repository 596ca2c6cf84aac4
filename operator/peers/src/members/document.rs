//! The table of members as it is kept. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::directory::Peer;

/// The table of members: small, and the same for all replicas.
///
/// As JSON: `{"clusterId": "…", "nextId": 4, "founders": [1, 2, 3], "members": {"0": {"id": 1, "state": "initial",
/// "address": "host:port", "started": "…"}, …}}`; the keys of `members` are ordinals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Drawn when the cluster was founded.
    pub cluster_id: String,
    /// The id that the next new member gets; ids are never given twice.
    pub next_id: u64,
    /// The voters that the cluster began with.
    pub founders: Vec<u64>,
    /// The present member of each ordinal.
    pub members: BTreeMap<u64, Member>,
    /// The cluster that was lost and that this one was founded in place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its raft id.
    pub id: u64,
    /// How far it is.
    pub state: MemberState,
    /// `host:port` where other replicas reach it.
    pub address: String,
    /// Token of the disk that has claimed the id, before it voted for the first time; none as long as nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
}

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// A voter that the cluster was founded with.
    Initial,
    /// It has claimed its id and is not a voter yet.
    Joining,
    /// It joined later, and is a voter.
    Member,
}

/// What the table says of a replica that has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is what it takes itself for.
    Current,
    /// Its id was given up: another disk has its ordinal, it was removed, or its cluster was lost and is founded anew. It
    /// must not go on with what its disk holds.
    Replaced,
    /// The table is another cluster's and says nothing.
    Foreign,
}

/// An id that is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: u64,
    /// What the table must become before the id is used; none when it says so already.
    pub(crate) write: Option<Document>,
}

impl Document {
    /// A cluster that is founded now: ordinals from 0 get the ids from 1.
    pub fn found(cluster_id: String, replicas: u64, address: impl Fn(u64) -> String) -> Self {
        let replicas = replicas.max(1);
        let member = |ordinal: u64| Member {
            id: ordinal + 1,
            state: MemberState::Initial,
            address: address(ordinal),
            started: None,
        };
        Self {
            cluster_id,
            next_id: replicas + 1,
            founders: (1..=replicas).collect(),
            members: (0..replicas).map(|at| (at, member(at))).collect(),
            supersedes: None,
        }
    }

    /// A cluster in place of this one, which is lost: the same replicas, with ids that nobody has had.
    pub(crate) fn found_anew(&self, cluster_id: String) -> Self {
        let ids = self.next_id..;
        let member = |((ordinal, member), id): ((&u64, &Member), u64)| {
            let founder = Member {
                id,
                state: MemberState::Initial,
                address: member.address.clone(),
                started: None,
            };
            (*ordinal, founder)
        };
        let members: BTreeMap<u64, Member> = self.members.iter().zip(ids).map(member).collect();
        Self {
            cluster_id,
            next_id: self.next_id + members.len() as u64,
            founders: members.values().map(|member| member.id).collect(),
            members,
            supersedes: Some(self.cluster_id.clone()),
        }
    }

    /// Claims an id for a replica whose disk drew `disk`. Repeating it changes nothing.
    pub(crate) fn claim(&self, ordinal: u64, disk: &str, address: &str) -> Claim {
        let mut next = self.clone();
        let id = match next.members.get_mut(&ordinal) {
            // Not claimed yet, or by this disk.
            Some(member) if member.started.as_deref().is_none_or(|by| by == disk) => {
                member.started = Some(disk.to_owned());
                address.clone_into(&mut member.address);
                member.id
            }
            // A new ordinal, or one whose disk is lost.
            _ => {
                let id = next.next_id;
                next.next_id += 1;
                let member = Member {
                    id,
                    state: MemberState::Joining,
                    address: address.to_owned(),
                    started: Some(disk.to_owned()),
                };
                next.members.insert(ordinal, member);
                id
            }
        };
        Claim {
            id,
            write: (next != *self).then_some(next),
        }
    }

    /// What it says of a replica.
    pub fn standing(&self, cluster_id: &str, ordinal: u64, id: u64) -> Standing {
        if self.supersedes.as_deref() == Some(cluster_id) {
            return Standing::Replaced;
        }
        if self.cluster_id != cluster_id {
            return Standing::Foreign;
        }
        let current = self.members.get(&ordinal);
        if current.is_some_and(|member| member.id == id) {
            Standing::Current
        } else {
            Standing::Replaced
        }
    }

    /// Voters to start a new log of `id` with: the founders for one of them, nobody for one that joins.
    pub fn initial_voters(&self, id: u64) -> Vec<u64> {
        if self.founders.contains(&id) {
            self.founders.clone()
        } else {
            Vec::new()
        }
    }

    /// Whether every replica has lost its disk and waits to be taken in by the others: nobody can lead any more, and nothing but
    /// a new cluster helps.
    ///
    /// Never true while a majority of voters has its disks. One that has become a voter stands here as one that joins until a
    /// leader has written it, but a leader changes nothing else before that ([`super::plan`]): there is one at most, and
    /// those who made it a voter are voters still.
    pub fn is_lost(&self) -> bool {
        let joined = |member: &Member| member.state != MemberState::Joining;
        !self.members.values().any(joined)
    }

    /// Where the replicas are.
    pub fn directory(&self) -> BTreeMap<u64, Peer> {
        let peer = |(ordinal, member): (&u64, &Member)| {
            let peer = Peer {
                ordinal: *ordinal,
                address: member.address.clone(),
            };
            (member.id, peer)
        };
        self.members.iter().map(peer).collect()
    }

    /// The ordinal of a present member.
    pub fn ordinal_of(&self, id: u64) -> Option<u64> {
        let mut members = self.members.iter();
        members.find_map(|(ordinal, member)| (member.id == id).then_some(*ordinal))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn founded() -> Document {
        Document::found("c".into(), 3, |ordinal| format!("pod-{ordinal}:7001"))
    }

    fn claimed(document: &Document, ordinal: u64, disk: &str) -> (u64, Document) {
        let claim = document.claim(ordinal, disk, &format!("pod-{ordinal}:7001"));
        (claim.id, claim.write.unwrap_or_else(|| document.clone()))
    }

    #[test]
    fn a_founder_has_its_id_once_and_a_second_disk_gets_a_new_one() {
        let document = founded();
        let (id, document) = claimed(&document, 1, "a");
        assert_eq!(id, 2);
        assert_eq!(document.claim(1, "a", "pod-1:7001").write, None);
        assert_eq!(document.initial_voters(id), [1, 2, 3]);

        let (id, document) = claimed(&document, 1, "b");
        assert_eq!((id, document.next_id), (4, 5));
        assert_eq!(document.members[&1].state, MemberState::Joining);
        assert_eq!(document.initial_voters(id), [0; 0]);
        assert_eq!(document.standing("c", 1, 2), Standing::Replaced);
        assert_eq!(document.standing("c", 1, 4), Standing::Current);
        assert_eq!(document.standing("d", 1, 4), Standing::Foreign);

        let (id, document) = claimed(&document, 5, "c");
        assert_eq!((id, document.ordinal_of(5)), (5, Some(5)));
    }

    #[test]
    fn a_cluster_is_lost_when_only_those_are_left_that_would_join() {
        let mut document = founded();
        for ordinal in 0..3 {
            document = claimed(&document, ordinal, "a").1;
        }
        for ordinal in 0..3 {
            assert!(!document.is_lost());
            document = claimed(&document, ordinal, "b").1;
        }
        assert!(document.is_lost());
    }

    #[test]
    fn a_cluster_that_is_founded_anew_has_new_ids_and_sends_those_of_the_lost_one_away() {
        let mut document = founded();
        for ordinal in 0..3 {
            document = claimed(&document, ordinal, "a").1;
            document = claimed(&document, ordinal, "b").1;
        }
        let anew = document.found_anew("d".into());
        assert_eq!(anew.founders, [7, 8, 9]);
        assert_eq!((anew.next_id, anew.is_lost()), (10, false));
        assert_eq!(anew.standing("c", 0, 4), Standing::Replaced);
        assert_eq!(anew.standing("d", 0, 7), Standing::Current);
        let (id, anew) = claimed(&anew, 1, "c");
        assert_eq!((id, anew.initial_voters(id)), (8, vec![7, 8, 9]));
        assert_eq!(anew.members[&1].address, "pod-1:7001");
    }

    #[test]
    fn it_is_written_as_documented_and_read_back() {
        let (_, document) = claimed(&founded(), 0, "token");
        let text = serde_json::to_string(&document).unwrap();
        let begin = r#"{"clusterId":"c","nextId":4,"founders":[1,2,3],"members":{"0":{"id":1,"state":"initial","address":"pod-0:7001","started":"token"},"1":{"id":2"#;
        assert!(text.starts_with(begin), "{text}");
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    }
}
