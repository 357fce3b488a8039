//! The contract of the log, on Kafka.

use crate::{
    log_contract::{Place, suite},
    support::{
        kafka::{config, open, with_properties},
        unique,
    },
};

fn place(clause: &str) -> Place {
    // A topic that is made later is looked for twice a second, so that its clause need not wait for half a minute.
    let config = with_properties(config(), &[("topic.metadata.refresh.interval.ms", "500")]);
    Place { open: Box::new(move || open(&config)), unique: unique(clause) }
}

suite!(place);
