//! What the benchmarks stand on: a cheap receiver on a core of its own, the daemon as a child pinned to another core, and the bare
//! client that everything is compared with.

#![allow(dead_code, reason = "every benchmark is a program of its own and uses a part of this")]

#[path = "../../tests/it/support/kafka.rs"]
pub mod kafka;
#[path = "../../tests/it/support/redis.rs"]
pub mod redis;

#[path = "../../tests/it/support/daemon.rs"]
pub mod daemon;

pub mod bare;
pub mod sink;

use std::{
    process::Command,
    time::{Duration, Instant},
};

/// CPU time (user and system) of a process so far.
pub fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name in parentheses").1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // USER_HZ is 100 on every Linux that Rust runs on.
    Duration::from_millis(ticks * 10)
}

/// Resident memory of a process, bytes.
pub fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("kB").parse::<u64>().expect("a number") * 1024
}

/// Pins all threads of a process, and those it starts from now on, to one core.
pub fn pin(process: u32, core: usize) {
    let status = Command::new("taskset").args(["-a", "-c", "-p", &core.to_string(), &process.to_string()]).output().expect("taskset runs");
    assert!(status.status.success(), "{status:?}");
}

/// CPU and count between two moments of a run: 10 % and 90 % of its deliveries, so that start and end are left out.
pub struct Measured {
    pub deliveries: u64,
    pub cpu: Duration,
    pub elapsed: Duration,
}

impl Measured {
    pub fn cpu_per_delivery(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    pub fn rate(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64()
    }
}

/// Measures a process while the sink counts from 10 % to 90 % of `total`.
pub fn measure(process: u32, sink: &sink::Sink, total: u64, limit: Duration) -> Measured {
    let deadline = Instant::now() + limit;
    let reach = |count: u64| {
        while sink.count() < count {
            assert!(Instant::now() < deadline, "{} of {total} arrived within {limit:?}", sink.count());
            std::thread::sleep(Duration::from_millis(1));
        }
        (Instant::now(), cpu(process), sink.count())
    };
    let (from, cpu_from, count_from) = reach(total / 10);
    let (to, cpu_to, count_to) = reach(total * 9 / 10);
    reach(total);
    Measured { deliveries: count_to - count_from, cpu: cpu_to - cpu_from, elapsed: to - from }
}

/// The value at a quantile (0 to 1) of what was measured; sorts it.
pub fn quantile(values: &mut [Duration], quantile: f64) -> Duration {
    values.sort_unstable();
    let last = values.len() - 1;
    values[((last as f64) * quantile).round() as usize]
}
