//! Memory of the idle daemon, and how long 100,000 registered endpoints take to be ready again, with the memory of each.
//!
//! `cargo bench --bench footprint [-- endpoints]`

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{daemon, resident};

fn main() {
    let endpoints: u64 =
        std::env::args().skip(1).find(|argument| argument != "--bench").map_or(100_000, |endpoints| endpoints.parse().expect("a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let site = daemon::Site::new(daemon::Backend::Standalone);
        let daemon = site.start().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let idle = resident(daemon.id());
        println!("idle: {:.1} MB (budget 30)", idle as f64 / 1e6);
        let begun = Instant::now();
        let daemon = std::sync::Arc::new(daemon);
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..32 {
            let daemon = std::sync::Arc::clone(&daemon);
            tasks.spawn(async move {
                for n in (client..endpoints).step_by(32) {
                    let url = format!("https://receiver-{n}.example.com/hooks/{n}");
                    daemon
                        .add_endpoint(json!({ "url": url, "channels": [format!("channel-{}", n % 10_000)], "types": ["message.*"], "signing": "standard" }))
                        .await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        println!("{endpoints} endpoints registered over the API in {:?}", begun.elapsed());
        std::sync::Arc::into_inner(daemon).expect("the clients are done").stop().await;
        let begun = Instant::now();
        let daemon = site.start().await;
        let ready = begun.elapsed();
        let each = (resident(daemon.id()).saturating_sub(idle)) / endpoints;
        println!("ready again after {ready:?} (budget 5 s), {each} bytes for each endpoint (budget 1024)");
        daemon.stop().await;
    });
}
