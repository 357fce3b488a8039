//! What the system says of this process: memory, descriptors, CPU time. Read from `/proc` (Linux); elsewhere the gauges stay at 0.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Metrics;

/// Linux counts CPU time for user space in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Sets the process metrics. It costs some system calls: once every few seconds is meant.
pub fn sample(metrics: &Metrics) {
    if let Some(bytes) = resident_bytes() {
        metrics.process_resident_bytes.set(bytes as f64);
    }
    if let Some(files) = open_files() {
        metrics.process_open_files.set(files as f64);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        metrics.process_open_files_limit.set(limit as f64);
    }
    if let Some(seconds) = cpu_seconds() {
        metrics.process_cpu_seconds.absolute(seconds);
    }
}

/// Raises the limit of open files to what the system allows this user, and returns it: every request in flight holds a descriptor.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// Resident memory of this process; none where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn open_files() -> Option<usize> {
    // One of them is the directory that is being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

fn cpu_seconds() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may hold spaces and brackets; user and system time are the 12th and 13th behind it (proc(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_itself() {
        let metrics = Metrics::new();
        sample(&metrics);
        let text = metrics.render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b' ').expect(name);
            line[name.len() + 1..].parse().expect("a number")
        };
        assert!(value("posthaste_process_resident_bytes") > 1e6);
        assert!(value("posthaste_process_open_files") >= 3.0);
        assert!(value("posthaste_process_open_files_limit") >= value("posthaste_process_open_files"));
    }

    #[test]
    fn the_limit_of_open_files_can_be_raised_twice() {
        let limit = raise_open_files_limit().expect("up to the hard limit it is allowed");
        assert_eq!(raise_open_files_limit().expect("again"), limit);
    }
}
