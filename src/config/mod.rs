//! The configuration: one TOML file, the environment over it, checked as a whole before anything starts.
//!
//! Every module owns its section; here they are put together. A mistake never gets further than this: all problems are
//! reported at once, each with file, line and key ([`Problems`]), and the process ends with code 2. `config/default.toml` is the
//! manual: a test holds it equal to the defaults in the code.
//!
//! An environment variable `POSTHASTE_SECTION__KEY` (`POSTHASTE_KAFKA__BROKERS`) wins over the file. Its value is written as in TOML
//! where it is a list or a table; other text needs no quotes. Tables are merged key by key.

pub mod admin;
mod document;
mod print;
mod problem;
mod relations;
mod tables;

use std::path::Path;

pub use problem::{Place, Problem, Problems};

use crate::{
    api, delivery,
    delivery::address::Policy,
    health,
    health::redis,
    log,
    log::{kafka, topics},
    model::Endpoint,
    registry::{self, Tenant},
    scheduler,
    settle::{dead_letter, journal, policy},
    sources::{self, ingest, replay},
    telemetry::logging,
};
use document::Document;

/// What is in force without any file: whoever tries it out on one machine has booked everything.
const WITHOUT_FILE: &str = "[[tenant]]\nid = \"default\"\naccount_roles = [\"ENTERPRISE\"]\n";

/// The manual: every key, its default and its reason.
pub const MANUAL: &str = include_str!("../../config/default.toml");

macro_rules! sections {
    ($( $(#[$doc:meta])* $field:ident: $type:ty, )*) => {
        /// The whole configuration; one field for each section of the file.
        #[derive(Debug, Clone, Default)]
        pub struct Config {
            $( $(#[$doc])* pub $field: $type, )*
            /// `[[endpoint]]`, checked: known on every instance, read-only in the API.
            pub endpoints: Vec<Endpoint>,
            /// `[[tenant]]`.
            pub tenants: Vec<Tenant>,
        }

        impl Config {
            /// The sections that are not alike, `[[endpoint]]` and `[[tenant]]` apart.
            pub fn differences(&self, other: &Config) -> Vec<&'static str> {
                let mut different = Vec::new();
                $( if self.$field != other.$field {
                    different.push(stringify!($field));
                } )*
                different
            }
        }

        /// The names of all sections.
        const SECTIONS: &[&str] = &[$( stringify!($field), )* tables::ENDPOINT, tables::TENANT];

        /// Each section's keys, for the test of the manual.
        #[cfg(test)]
        const KEYS: &[(&str, fn() -> &'static [&'static str])] = &[
            $( (stringify!($field), tests::keys::<$type>), )*
            (tables::ENDPOINT, tests::keys::<crate::registry::spec::EndpointSpec>),
            (tables::TENANT, tests::keys::<tables::TenantTable>),
        ];

        fn read(document: &mut Document) -> Config {
            let mut config = Config {
                $( $field: document.section(stringify!($field), <$type>::check), )*
                endpoints: Vec::new(),
                tenants: tables::tenants(document),
            };
            // Networks that could not be read might allow any address.
            let policy = match document.is_unread("delivery.allow_networks") {
                true => Policy::anywhere(),
                false => Policy::new(config.delivery.allow_networks.clone()),
            };
            config.endpoints = tables::endpoints(document, &policy);
            config
        }
    };
}

sections! {
    /// The management API.
    api: api::Config,
    /// Metrics, liveness, readiness.
    admin: admin::Config,
    /// Which log, and how long it keeps what.
    log: log::Config,
    /// Names of the topics.
    topics: topics::Config,
    /// The Kafka cluster, when it is the log.
    kafka: kafka::Config,
    /// Bounds of what comes in over HTTP.
    ingest: ingest::Config,
    /// How the log is read.
    source: sources::Config,
    /// Rules of health, and where its records are kept.
    health: health::Config,
    /// Where the fleet's health records are, when they are shared.
    redis: redis::Config,
    /// Which delivery goes next, and how many at once.
    scheduler: scheduler::Config,
    /// When and how often a failed delivery is tried again.
    retry: policy::Config,
    /// What is kept in memory of the dead letters.
    dead_letters: dead_letter::Config,
    /// Delivering a stretch of the past again.
    replay: replay::Config,
    /// The journal of attempts.
    journal: journal::Config,
    /// How requests are sent.
    delivery: delivery::Config,
    /// The key that seals secrets.
    registry: registry::Config,
    /// Logs of the process.
    logging: logging::Config,
}

/// The variables of this process; what is no UTF-8 is none of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    values: toml::Table,
}

impl Loaded {
    /// The configuration in force as TOML, defaults included, secrets masked.
    pub fn print(&self) -> String {
        print::print(&self.values)
    }
}

/// Reads the file (none: the defaults, and a tenant `default` with the role ENTERPRISE) and the environment over it.
pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    let (name, text) = text_of(file)?;
    parse(&name, &text, environment)
}

/// As [`load`], for who only asks a daemon something: what a daemon alone must know may be missing.
pub fn load_for_client(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    let (name, text) = text_of(file)?;
    judge(&name, &text, environment, relations::check)
}

fn text_of(file: Option<&Path>) -> Result<(String, String), Problems> {
    let name = file.map_or_else(String::new, |file| file.display().to_string());
    let text = match file.map(std::fs::read_to_string) {
        None => WITHOUT_FILE.to_owned(),
        Some(Ok(text)) => text,
        Some(Err(error)) => {
            let what = format!("cannot be read: {error}; name the file by --config, or leave that out to run with the defaults");
            return Err(Problems(vec![Problem { place: Place::WholeFile(name), key: String::new(), what }]));
        }
    };
    Ok((name, text))
}

/// As [`load`], from text; `name` is what problems call it.
pub fn parse(name: &str, text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    judge(name, text, environment, |config| relations::of_daemon(config).into_iter().chain(relations::check(config)).collect())
}

fn judge(
    name: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    relations: impl Fn(&Config) -> Vec<relations::Problem>,
) -> Result<Loaded, Problems> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let mut document = Document::parse(name, text);
    for (variable, value) in &environment {
        match override_of(variable) {
            Override::Of(section, _) if [tables::ENDPOINT, tables::TENANT].contains(&&*section) => {
                document.report_variable(variable, format!("a variable cannot name one of many: write [[{section}]] in the file"))
            }
            Override::Of(section, key) => document.overlay(variable, &section, &key, value),
            Override::Mistyped(meant) => {
                document.report_variable(variable, format!("section and key are joined by two underscores; did you mean {meant}?"))
            }
            Override::None => {}
        }
    }
    let values = document.values();
    let config = read(&mut document);
    for problem in relations(&config) {
        if !problem.other.is_some_and(|other| document.is_unread(other)) {
            document.report_key(problem.section, &problem.key, problem.what);
        }
    }
    match document.finish(SECTIONS) {
        problems if problems.is_empty() => Ok(Loaded { config, values }),
        problems => Err(Problems(problems)),
    }
}

enum Override {
    /// Section and key.
    Of(String, String),
    /// One underscore where two were meant.
    Mistyped(String),
    /// None of ours.
    None,
}

/// What an environment variable sets. Variables without two underscores belong to the command line (`POSTHASTE_TOKEN`) or to nobody.
fn override_of(variable: &str) -> Override {
    let Some(rest) = variable.strip_prefix("POSTHASTE_") else { return Override::None };
    if let Some((section, key)) = rest.split_once("__") {
        return Override::Of(section.to_lowercase(), key.to_lowercase());
    }
    let lower = rest.to_lowercase();
    let mistyped = SECTIONS.iter().find_map(|section| lower.strip_prefix(section)?.strip_prefix('_').map(|key| (section, key)));
    match mistyped {
        Some((section, key)) => Override::Mistyped(format!("POSTHASTE_{}__{}", section.to_uppercase(), key.to_uppercase())),
        None => Override::None,
    }
}

#[cfg(test)]
mod tests;
