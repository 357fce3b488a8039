//! (being written)
pub fn run(_: super::DemoArguments) -> anyhow::Result<()> {
    anyhow::bail!("being written")
}
