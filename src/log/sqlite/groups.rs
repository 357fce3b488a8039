//! Consumer groups: who reads which partition, and how far the group has come.
//!
//! A group lives in one process, but may have several members there. Partitions move in the same steps as on Kafka with the cooperative
//! protocol: the plan is made over all members, a partition that is to move is revoked first, and only when its owner has released it is
//! it offered to the next one. So a partition never has two owners, and who keeps his partitions never stops reading.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    partition::{Bell, Catalogue, Partition},
    store::{Fault, StoredCommit},
};
use crate::{log::Topics, model::TopicPartition};

#[derive(Debug, Default)]
pub(super) struct Groups {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<String, Group>,
    last_member: u64,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<u64, Member>,
    owners: BTreeMap<TopicPartition, Owner>,
    committed: BTreeMap<TopicPartition, (i64, String)>,
}

#[derive(Debug)]
struct Member {
    topics: Topics,
    bell: Arc<Bell>,
    offered: Vec<Offer>,
    revoked: Vec<TopicPartition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    member: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The member has not taken it yet.
    Offered,
    Held,
    /// The member has to release it, whether it knows already or not.
    Revoked,
}

/// A partition that a member may begin to read.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub partition: Arc<Partition>,
    /// Where the partition ended when the offer was made: what `Start::Latest` means, however late the member takes it.
    pub end: i64,
    pub committed: Option<(i64, String)>,
}

impl Groups {
    pub fn new(stored: Vec<StoredCommit>) -> Groups {
        let mut by_name: HashMap<String, Group> = HashMap::new();
        for commit in stored {
            let partition = TopicPartition { topic: commit.topic.into(), partition: commit.number };
            by_name.entry(commit.group).or_default().committed.insert(partition, (commit.offset, commit.metadata));
        }
        Groups { inner: Mutex::new(Inner { by_name, last_member: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds this lock")
    }

    /// Adds a member and returns its number.
    pub fn join(&self, group: &str, topics: Topics, bell: Arc<Bell>, catalogue: &Catalogue) -> u64 {
        let mut inner = self.lock();
        inner.last_member += 1;
        let id = inner.last_member;
        let group = inner.by_name.entry(group.to_owned()).or_default();
        group.members.insert(id, Member { topics, bell, offered: Vec::new(), revoked: Vec::new() });
        group.rebalance(catalogue);
        id
    }

    /// Takes a member out; what it owned goes to the others at once.
    pub fn leave(&self, group: &str, member: u64, catalogue: &Catalogue) {
        let mut inner = self.lock();
        let Some(group) = inner.by_name.get_mut(group) else { return };
        if group.members.remove(&member).is_some() {
            group.owners.retain(|_, owner| owner.member != member);
            group.rebalance(catalogue);
        }
    }

    /// Ends the revocation of `partitions`.
    pub fn release(&self, group: &str, member: u64, partitions: &[TopicPartition], catalogue: &Catalogue) {
        let mut inner = self.lock();
        let Some(group) = inner.by_name.get_mut(group) else { return };
        for partition in partitions {
            if group.owners.get(partition) == Some(&Owner { member, phase: Phase::Revoked }) {
                group.owners.remove(partition);
            }
        }
        group.rebalance(catalogue);
    }

    /// Plans anew: there are new topics.
    pub fn topics_changed(&self, catalogue: &Catalogue) {
        self.lock().by_name.values_mut().for_each(|group| group.rebalance(catalogue));
    }

    /// What the member has to release, once.
    pub fn take_revoked(&self, group: &str, member: u64) -> Vec<TopicPartition> {
        let mut inner = self.lock();
        let member = inner.by_name.get_mut(group).and_then(|group| group.members.get_mut(&member));
        member.map(|member| std::mem::take(&mut member.revoked)).unwrap_or_default()
    }

    /// What the member may begin to read, once; it holds these from now on.
    pub fn take_offers(&self, group: &str, member: u64) -> Vec<Offer> {
        let mut inner = self.lock();
        let Some(Group { members, owners, committed }) = inner.by_name.get_mut(group) else { return Vec::new() };
        let mut offers = members.get_mut(&member).map(|member| std::mem::take(&mut member.offered)).unwrap_or_default();
        for offer in &mut offers {
            owners.insert(offer.partition.name.clone(), Owner { member, phase: Phase::Held });
            offer.committed = committed.get(&offer.partition.name).cloned();
        }
        offers
    }

    /// Whether the member may commit this partition: it holds it, or has not released it yet.
    pub fn owns(&self, group: &str, member: u64, partition: &TopicPartition) -> Result<(), Fault> {
        let inner = self.lock();
        match inner.by_name.get(group).and_then(|group| group.owners.get(partition)) {
            Some(owner) if owner.member == member && owner.phase != Phase::Offered => Ok(()),
            _ => Err(Fault::unavailable(format!(
                "{}:{} is not assigned to this member of group `{group}`: only its owner can commit it",
                partition.topic, partition.partition
            ))),
        }
    }

    /// Takes note of a commit that is durable.
    pub fn put_commit(&self, group: &str, partition: &TopicPartition, offset: i64, metadata: String) {
        let mut inner = self.lock();
        inner.by_name.entry(group.to_owned()).or_default().committed.insert(partition.clone(), (offset, metadata));
    }

    /// The committed offsets of a group on a topic.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<(TopicPartition, i64)> {
        let inner = self.lock();
        let committed = inner.by_name.get(group).into_iter().flat_map(|group| &group.committed);
        committed.filter(|(name, _)| &*name.topic == topic).map(|(name, (offset, _))| (name.clone(), *offset)).collect()
    }

    /// The lowest offset that any group still has to read.
    pub fn lowest(&self, partition: &TopicPartition) -> Option<i64> {
        self.lock().by_name.values().filter_map(|group| group.committed.get(partition)).map(|(offset, _)| *offset).min()
    }
}

impl Group {
    fn rebalance(&mut self, catalogue: &Catalogue) {
        let wanted: Vec<(u64, Vec<&Arc<Partition>>)> = self
            .members
            .iter()
            .map(|(id, member)| {
                let topics = catalogue.values().filter(|topic| match &member.topics {
                    Topics::Named(names) => names.contains(&topic.name),
                    Topics::Prefixed(prefix) => topic.name.starts_with(prefix.as_str()),
                });
                (*id, topics.flat_map(|topic| &topic.partitions).collect())
            })
            .collect();
        let partitions: BTreeMap<&TopicPartition, &Arc<Partition>> =
            wanted.iter().flat_map(|(_, partitions)| partitions.iter().map(|partition| (&partition.name, *partition))).collect();
        let names: Vec<(u64, Vec<&TopicPartition>)> =
            wanted.iter().map(|(id, partitions)| (*id, partitions.iter().map(|partition| &partition.name).collect())).collect();
        let owners: BTreeMap<&TopicPartition, u64> =
            self.owners.iter().filter(|(_, owner)| owner.phase != Phase::Revoked).map(|(name, owner)| (name, owner.member)).collect();
        let plan: Vec<(TopicPartition, u64)> = plan(&names, &owners).into_iter().map(|(name, id)| (name.clone(), id)).collect();

        for (name, to) in plan {
            match self.owners.get(&name).copied() {
                Some(Owner { phase: Phase::Revoked, .. }) => continue,
                Some(Owner { member, .. }) if member == to => continue,
                Some(Owner { member, phase: Phase::Held }) => {
                    self.owners.insert(name.clone(), Owner { member, phase: Phase::Revoked });
                    if let Some(owner) = self.members.get_mut(&member) {
                        owner.revoked.push(name);
                        owner.bell.ring();
                    }
                    continue;
                }
                Some(Owner { member, phase: Phase::Offered }) => {
                    if let Some(owner) = self.members.get_mut(&member) {
                        owner.offered.retain(|offer| offer.partition.name != name);
                    }
                }
                None => {}
            }
            let (Some(partition), Some(member)) = (partitions.get(&name), self.members.get_mut(&to)) else { continue };
            member.offered.push(Offer { partition: Arc::clone(partition), end: partition.end(), committed: None });
            member.bell.ring();
            self.owners.insert(name, Owner { member: to, phase: Phase::Offered });
        }
    }
}

/// Gives every partition that somebody wants to one of those who want it: nobody has two more than anybody who could take one of them,
/// and no more partitions move than that needs.
fn plan<'a>(wanted: &[(u64, Vec<&'a TopicPartition>)], owners: &BTreeMap<&TopicPartition, u64>) -> BTreeMap<&'a TopicPartition, u64> {
    let mut takers: BTreeMap<&'a TopicPartition, Vec<u64>> = BTreeMap::new();
    for (id, partitions) in wanted {
        partitions.iter().for_each(|partition| takers.entry(partition).or_default().push(*id));
    }
    let mut load: BTreeMap<u64, usize> = wanted.iter().map(|(id, _)| (*id, 0)).collect();
    let mut plan: BTreeMap<&'a TopicPartition, u64> = BTreeMap::new();
    for (partition, takers) in &takers {
        if let Some(owner) = owners.get(partition).filter(|owner| takers.contains(owner)) {
            *load.entry(*owner).or_default() += 1;
            plan.insert(partition, *owner);
        }
    }
    for (partition, takers) in &takers {
        if !plan.contains_key(partition) {
            let least = *takers.iter().min_by_key(|id| (load[id], **id)).expect("a partition is listed because somebody wants it");
            *load.entry(least).or_default() += 1;
            plan.insert(partition, least);
        }
    }
    // Every move lowers the sum of the squared loads, so this ends.
    loop {
        let moves = plan.iter().find_map(|(partition, from)| {
            let least = *takers[partition].iter().min_by_key(|id| (load[id], **id))?;
            (load[from] > load[&least] + 1).then_some((*partition, *from, least))
        });
        let Some((partition, from, to)) = moves else { return plan };
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
        plan.insert(partition, to);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partitions(count: i32) -> Vec<TopicPartition> {
        (0..count).map(|partition| TopicPartition { topic: "t".into(), partition }).collect()
    }

    proptest! {
        /// Whoever owned what before: all is given out, evenly, and those who stay keep as much as an even share allows.
        #[test]
        fn a_plan_is_complete_even_and_moves_little(members in 1u64..6, count in 0i32..20, before in proptest::collection::vec(0u64..8, 20)) {
            let all = partitions(count);
            let wanted: Vec<_> = (1..=members).map(|id| (id, all.iter().collect::<Vec<_>>())).collect();
            let owners: BTreeMap<_, _> = all.iter().zip(before).filter(|(_, owner)| *owner > 0).collect();
            let plan = plan(&wanted, &owners);
            prop_assert_eq!(plan.len(), all.len());
            let load = |id: u64| plan.values().filter(|owner| **owner == id).count();
            let (most, least) = ((1..=members).map(load).max().unwrap(), (1..=members).map(load).min().unwrap());
            prop_assert!(most - least <= 1);
            let kept = plan.iter().filter(|(partition, owner)| owners.get(*partition) == Some(owner)).count();
            let floor = all.len() / members as usize;
            let possible: usize = (1..=members).map(|id| owners.values().filter(|owner| **owner == id).count().min(floor)).sum();
            prop_assert!(kept >= possible, "{} kept, {} possible", kept, possible);
        }
    }

    #[test]
    fn nobody_gets_what_he_does_not_want() {
        let all = partitions(4);
        let plan = plan(&[(1, all.iter().collect()), (2, vec![&all[3]])], &BTreeMap::new());
        assert_eq!(plan.values().copied().collect::<Vec<_>>(), [1, 1, 1, 2]);
    }
}
