//! Small secrets in files of their own, made once and readable by their owner alone: the key of the registry, the admin token.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use zeroize::Zeroizing;

/// The files hold some dozens of bytes; what is longer is something else.
const LIMIT: u64 = 1024;

/// The text of the file, without white space around it, and whether it was made now (by `make`, which may refuse to) because it was not there.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> Result<Zeroizing<String>, String>) -> Result<(Zeroizing<String>, bool), String> {
    match File::open(path) {
        Ok(file) => {
            let mut text = Zeroizing::new(String::new());
            file.take(LIMIT).read_to_string(&mut text).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Ok((Zeroizing::new(text.trim().to_owned()), false))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = make()?;
            write(path, &text).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
            Ok((text, true))
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Writes it beside its place, makes it durable, and then moves it there: no crash leaves half a file behind.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let scratch = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&scratch, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
