//! Whose turn it is: deficit round robin (Shreedhar and Varghese 1995) over tenants, and over the endpoints of each, once per standing.
//!
//! Only endpoints that can be served are in here. A member that has its turn and no credit left gets its quantum; it is served until the
//! credit is used up, then goes behind the others. What a request costs is said in one place (`COST`): for now, the same for each.

use std::{collections::HashMap, num::NonZeroU32};

use foldhash::fast::RandomState;

use super::ring::{Links, Ring};
use crate::model::Text;

/// What one request costs of its endpoint's and its tenant's credit.
const COST: i64 = 1;
/// What an endpoint, and a tenant of weight 1, is given per round.
const QUANTUM: i64 = 1;

/// What is known of an endpoint, as far as the order of service goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Proven,
    /// It has not answered yet, or not lately, or lets requests wait.
    Unproven,
    Degraded,
}

const STANDINGS: usize = 3;

#[derive(Debug, Default)]
pub struct Fair {
    lanes: [Lane; STANDINGS],
    tenants: Vec<Tenant>,
    by_name: HashMap<Text, u32, RandomState>,
    members: Vec<Member>,
    links: Links,
}

#[derive(Debug, Default)]
struct Lane {
    tenants: Ring,
    links: Links,
}

#[derive(Debug)]
struct Tenant {
    weight: i64,
    shares: [Share; STANDINGS],
}

/// A tenant's part of one lane.
#[derive(Debug, Default)]
struct Share {
    endpoints: Ring,
    credit: i64,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    tenant: u32,
    standing: Option<Standing>,
    credit: i64,
}

impl Fair {
    /// Makes an endpoint known, or moves it to another tenant. It must not be in a ring.
    pub fn enroll(&mut self, endpoint: u32, tenant: &Text) {
        let tenant = self.tenant(tenant);
        let index = endpoint as usize;
        if index >= self.members.len() {
            self.members.resize(index + 1, Member { tenant, standing: None, credit: 0 });
            self.links.grow(index + 1);
        }
        debug_assert!(self.members[index].standing.is_none(), "an endpoint in a ring cannot change its tenant");
        self.members[index] = Member { tenant, standing: None, credit: 0 };
    }

    pub fn set_weight(&mut self, tenant: &Text, weight: NonZeroU32) {
        let tenant = self.tenant(tenant);
        self.tenants[tenant as usize].weight = weight.get().into();
    }

    /// Whether anybody of this standing can be served.
    pub fn has(&self, standing: Standing) -> bool {
        !self.lanes[standing as usize].tenants.is_empty()
    }

    /// Puts an endpoint where it belongs; none: it cannot be served now.
    pub fn place(&mut self, endpoint: u32, standing: Option<Standing>) {
        let member = self.members[endpoint as usize];
        if member.standing == standing {
            return;
        }
        if let Some(old) = member.standing {
            self.leave(endpoint, member.tenant, old);
        }
        if let Some(new) = standing {
            let share = &mut self.tenants[member.tenant as usize].shares[new as usize];
            let lane = &mut self.lanes[new as usize];
            if share.endpoints.is_empty() {
                lane.links.push(&mut lane.tenants, member.tenant);
            }
            self.links.push(&mut share.endpoints, endpoint);
        }
        self.members[endpoint as usize].standing = standing;
    }

    /// The endpoint whose turn it is.
    pub fn head(&mut self, standing: Standing) -> Option<u32> {
        let lane = &mut self.lanes[standing as usize];
        loop {
            let name = lane.tenants.head()?;
            let tenant = &mut self.tenants[name as usize];
            let share = &mut tenant.shares[standing as usize];
            if share.credit <= 0 {
                share.credit += QUANTUM * tenant.weight;
                if share.credit <= 0 {
                    lane.links.turn(&mut lane.tenants);
                    continue;
                }
            }
            let endpoint = share.endpoints.head().expect("a tenant in a lane has an endpoint there");
            let member = &mut self.members[endpoint as usize];
            if member.credit <= 0 {
                member.credit += QUANTUM;
                if member.credit <= 0 {
                    self.links.turn(&mut share.endpoints);
                    continue;
                }
            }
            return Some(endpoint);
        }
    }

    /// Charges the endpoint that [`Fair::head`] has just returned for a request, and turns the rings when its credit is used up.
    pub fn charge(&mut self, standing: Standing, endpoint: u32) {
        let lane = &mut self.lanes[standing as usize];
        let member = &mut self.members[endpoint as usize];
        let share = &mut self.tenants[member.tenant as usize].shares[standing as usize];
        member.credit -= COST;
        share.credit -= COST;
        if member.credit <= 0 {
            self.links.turn(&mut share.endpoints);
        }
        if share.credit <= 0 {
            lane.links.turn(&mut lane.tenants);
        }
    }

    /// Who leaves keeps what it owes and loses what it has saved: credit is not for hoarding.
    fn leave(&mut self, endpoint: u32, tenant: u32, standing: Standing) {
        let lane = &mut self.lanes[standing as usize];
        let share = &mut self.tenants[tenant as usize].shares[standing as usize];
        self.links.remove(&mut share.endpoints, endpoint);
        let member = &mut self.members[endpoint as usize];
        member.credit = member.credit.min(0);
        if share.endpoints.is_empty() {
            share.credit = share.credit.min(0);
            lane.links.remove(&mut lane.tenants, tenant);
        }
    }

    fn tenant(&mut self, name: &Text) -> u32 {
        if let Some(tenant) = self.by_name.get(name) {
            return *tenant;
        }
        let tenant = u32::try_from(self.tenants.len()).expect("fewer than four billion tenants");
        self.tenants.push(Tenant { weight: 1, shares: Default::default() });
        self.lanes.iter_mut().for_each(|lane| lane.links.grow(tenant as usize + 1));
        self.by_name.insert(name.clone(), tenant);
        tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(fair: &mut Fair, turns: usize) -> Vec<u32> {
        (0..turns)
            .map(|_| {
                let endpoint = fair.head(Standing::Proven).expect("somebody waits");
                fair.charge(Standing::Proven, endpoint);
                endpoint
            })
            .collect()
    }

    #[test]
    fn tenants_take_turns_and_so_do_the_endpoints_of_each() {
        let mut fair = Fair::default();
        for (endpoint, tenant) in [(0, "many"), (1, "many"), (2, "many"), (3, "one")] {
            fair.enroll(endpoint, &tenant.into());
            fair.place(endpoint, Some(Standing::Proven));
        }
        assert_eq!(serve(&mut fair, 8), [0, 3, 1, 3, 2, 3, 0, 3]);
        fair.place(1, None);
        assert_eq!(serve(&mut fair, 4), [2, 3, 0, 3]);
    }

    #[test]
    fn a_weight_is_a_multiple_of_the_turns() {
        let mut fair = Fair::default();
        for (endpoint, tenant) in [(0, "heavy"), (1, "heavy"), (2, "light")] {
            fair.enroll(endpoint, &tenant.into());
            fair.place(endpoint, Some(Standing::Proven));
        }
        fair.set_weight(&"heavy".into(), NonZeroU32::new(3).expect("above zero"));
        assert_eq!(serve(&mut fair, 8), [0, 1, 0, 2, 1, 0, 1, 2]);
    }

    #[test]
    fn a_standing_has_a_round_of_its_own() {
        let mut fair = Fair::default();
        fair.enroll(0, &"t".into());
        fair.place(0, Some(Standing::Degraded));
        assert!(!fair.has(Standing::Proven) && fair.has(Standing::Degraded));
        fair.place(0, Some(Standing::Unproven));
        assert!(!fair.has(Standing::Degraded));
        assert_eq!(fair.head(Standing::Unproven), Some(0));
        fair.place(0, None);
        assert_eq!(fair.head(Standing::Unproven), None);
    }
}
