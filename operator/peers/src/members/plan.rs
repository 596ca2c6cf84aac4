//! What a leader does so that raft's members become those of the table. Pure.

use operator_consensus::{Change, MemberStatus};

use super::document::{Document, MemberState};

/// One thing for the leader to do; then it looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask raft for a change. It may refuse (a learner that has not caught up, another change under way): later again.
    Change(Change),
    /// Write the table, if nobody else has meanwhile.
    Write(Document),
}

/// The next step towards `replicas` voters, one for each ordinal from 0; none when there is nothing to do, or nothing that
/// is safe. `own` is the leader's id, `members` what its raft says of all.
///
/// In this order: the table follows what raft has done; ids that the table does not have any more leave (their disks are
/// lost); those that join become learners, then voters; ordinals from `replicas` on leave, the highest first, the leader
/// last. Nothing is done that would leave less than a majority of voters that are heard of. An ordinal from `replicas`
/// on that has not joined yet stays in the table: who has the newer number of replicas adds it.
///
/// Cost: O(members squared), a handful.
pub fn plan(
    document: &Document,
    own: u64,
    members: &[MemberStatus],
    replicas: u64,
) -> Option<Step> {
    // A leader that was replaced must not shape the others.
    document.ordinal_of(own)?;
    let view = View { own, members };
    tidied(document, &view).map_or_else(
        || change(document, &view, replicas),
        |next| Some(Step::Write(next)),
    )
}

struct View<'a> {
    own: u64,
    members: &'a [MemberStatus],
}

impl View<'_> {
    fn member(&self, id: u64) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }

    fn hears(&self, member: &MemberStatus) -> bool {
        member.id == self.own || member.active == Some(true)
    }

    /// Whether more than half of the voters are heard of once one more is, or one is none any more.
    fn majority(&self, with: Option<u64>, without: Option<u64>) -> bool {
        let voters = self.members.iter().filter(|member| {
            (member.voter || Some(member.id) == with) && Some(member.id) != without
        });
        let heard: Vec<bool> = voters.map(|member| self.hears(member)).collect();
        heard.iter().filter(|heard| **heard).count() > heard.len() / 2
    }
}

/// The table as raft has made it; none when it is so already.
fn tidied(document: &Document, view: &View<'_>) -> Option<Document> {
    let mut next = document.clone();
    for member in next.members.values_mut() {
        let votes = view.member(member.id).is_some_and(|found| found.voter);
        if member.state == MemberState::Joining && votes {
            member.state = MemberState::Member;
        }
    }
    // Was a voter and is none any more: its id is used up.
    let removed = |id| view.member(id).is_none();
    next.members
        .retain(|_, member| member.state == MemberState::Joining || !removed(member.id));
    (next != *document).then_some(next)
}

fn change(document: &Document, view: &View<'_>, replicas: u64) -> Option<Step> {
    let lost = view
        .members
        .iter()
        .filter(|member| document.ordinal_of(member.id).is_none())
        // Learners first: they cost nothing.
        .min_by_key(|member| member.voter)
        .filter(|member| view.majority(None, Some(member.id)));
    if let Some(member) = lost {
        return Some(Step::Change(Change::Remove(member.id)));
    }
    let wanted = document.members.range(..replicas);
    let mut joining = wanted.filter(|(_, member)| member.state == MemberState::Joining);
    if let Some((_, member)) = joining
        .clone()
        .find(|(_, member)| view.member(member.id).is_none())
    {
        return Some(Step::Change(Change::AddLearner(member.id)));
    }
    // The one that is nearest to the log's end, so that one that hangs does not hold up another.
    let ready = joining
        .by_ref()
        .filter_map(|(_, member)| view.member(member.id))
        .filter(|member| !member.voter && view.hears(member))
        .filter(|member| view.majority(Some(member.id), None))
        .max_by_key(|member| member.matched);
    if let Some(member) = ready {
        return Some(Step::Change(Change::Promote(member.id)));
    }
    let beyond = document.members.range(replicas.max(1)..).rev();
    let mut beyond = beyond
        .filter_map(|(_, member)| view.member(member.id))
        .filter(|member| view.majority(None, Some(member.id)))
        .collect::<Vec<_>>();
    beyond.sort_by_key(|member| member.id == view.own);
    let first = beyond.first()?;
    Some(Step::Change(Change::Remove(first.id)))
}

#[cfg(test)]
mod tests;
