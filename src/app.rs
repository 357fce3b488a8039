//! (being written)
use std::path::PathBuf;

pub struct Options {
    pub config_file: Option<PathBuf>,
    pub logging: crate::telemetry::logging::Handle,
}

pub fn serve(_: crate::config::Config, _: Options) -> anyhow::Result<()> {
    anyhow::bail!("being written")
}
