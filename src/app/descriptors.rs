//! File descriptors: every request in flight and every idle connection takes one, so the limit is raised and checked before anything starts.

use crate::{delivery, scheduler, telemetry::process};

/// What everything but connections to endpoints takes: the log, the API's clients, the broker.
const REST: u64 = 512;

/// Raises the soft limit as far as it is needed and allowed; the error names the ways out.
pub fn raise(scheduler: &scheduler::Config, delivery: &delivery::Config) -> Result<(), String> {
    let idle = (delivery.idle_connections as u64).saturating_mul(scheduler.shard_count() as u64);
    let needed = u64::from(scheduler.slots) + idle + REST;
    let allowed = process::raise_open_files_limit().map_err(|error| format!("the limit of file descriptors cannot be raised: {error}"))?;
    match allowed >= needed {
        true => Ok(()),
        false => Err(format!(
            "{needed} file descriptors are needed for scheduler.slots = {} and {idle} idle connections (delivery.idle_connections = {} on each of {} \
             shards), and only {allowed} are allowed: raise the limit (`ulimit -Hn`, LimitNOFILE= in systemd) or lower one of the two",
            scheduler.slots,
            delivery.idle_connections,
            scheduler.shard_count()
        )),
    }
}
