//! The rate at which a tenant may hand in events over HTTP, on this instance.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};

use crate::{
    model::{Rate, Text, units::Per},
    registry::Tenant,
};

/// One limiter for each tenant that has a rate; tenants are declared or put by an administrator, so they are few.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<Text, (Rate, Arc<DefaultDirectRateLimiter>)>>);

impl Rates {
    /// Takes `events` out of the tenant's allowance, or says after how long to ask again. A batch larger than what may ever come at once is
    /// taken as if it were that large, so that it can be handed in at all.
    pub fn take(&self, tenant: &Tenant, events: usize) -> Result<(), Duration> {
        let Some(rate) = tenant.rate else { return Ok(()) };
        let limiter = self.limiter(tenant, rate);
        let events = u32::try_from(events).unwrap_or(u32::MAX).min(rate.count.get());
        let Some(events) = NonZeroU32::new(events) else { return Ok(()) };
        let fits = limiter.check_n(events).expect("no more than the burst, which is the count of the rate");
        fits.map_err(|later| later.wait_time_from(governor::clock::DefaultClock::default().now()))
    }

    fn limiter(&self, tenant: &Tenant, rate: Rate) -> Arc<DefaultDirectRateLimiter> {
        let mut limiters = self.0.lock().expect("nothing panics while it holds the limiters");
        match limiters.get(&tenant.id) {
            Some((known, limiter)) if *known == rate => Arc::clone(limiter),
            _ => {
                let limiter = Arc::new(RateLimiter::direct(quota(rate)));
                limiters.insert(tenant.id.clone(), (rate, Arc::clone(&limiter)));
                limiter
            }
        }
    }
}

fn quota(rate: Rate) -> Quota {
    match rate.per {
        Per::Second => Quota::per_second(rate.count),
        Per::Minute => Quota::per_minute(rate.count),
        Per::Hour => Quota::per_hour(rate.count),
    }
}
