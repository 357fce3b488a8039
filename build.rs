//! Packs the relocations of the binary: 60,000 of them are 1.4 MB that every start reads, and 30 KB when packed. Only where the C library of this
//! machine reads packed ones (glibc since 2.36) and the binary is to run here; elsewhere the linker does what it does by default.

use std::{env, process::Command};

const READS_PACKED: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of = |name| env::var(name).unwrap_or_default();
    let for_here = of("HOST") == of("TARGET") && of("CARGO_CFG_TARGET_ENV") == "gnu" && of("CARGO_CFG_TARGET_OS") == "linux";
    if for_here && glibc().is_some_and(|version| version >= READS_PACKED) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's, from a line like `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let line = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = line.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
