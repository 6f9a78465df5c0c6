//! The kernel's symbols, for the host's `perf report`.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use guest_words::symbols::{BuildId, CACHE, LARGEST};
use guest_words::{Job, Message};

use super::streams;

/// Sends them if the command has recorded a profile of this kernel, and the host does not
/// have them yet.
pub(super) fn send_if_recorded(job: &Job, control: &File) -> io::Result<()> {
    let Some(home) = home(job) else {
        return Ok(());
    };
    let cache = home.join(CACHE);
    let Some(id) = BuildId::of_notes(&fs::read("/sys/kernel/notes")?) else {
        return Ok(());
    };
    if !cache.join(id.recorded()).exists() {
        return Ok(());
    }
    // A kernel without modules has no such file.
    let modules = fs::read("/proc/modules").unwrap_or_default();
    if cache.join(id.kept(&modules)).exists() {
        return Ok(());
    }
    let symbols = fs::read("/proc/kallsyms")?;
    let id = id.as_hex().as_bytes();
    let parts = [id, &symbols, &modules];
    let mut lengths = [0; 3];
    for (len, part) in lengths.iter_mut().zip(parts) {
        *len = u32::try_from(part.len()).map_err(io::Error::other)?;
        if *len > LARGEST {
            return Ok(());
        }
    }
    let line = Message::Symbols(lengths).to_line();
    streams::write_all(control, line.as_bytes())?;
    parts
        .into_iter()
        .try_for_each(|part| streams::write_all(control, part))
}

/// The home that the command was told of.
fn home(job: &Job) -> Option<PathBuf> {
    let variables = job.environment.iter();
    let home = variables
        .rev()
        .find_map(|v| v.as_bytes().strip_prefix(b"HOME="))?;
    let home = PathBuf::from(std::ffi::OsString::from_vec(home.to_vec()));
    (home.is_absolute() && home != Path::new("/")).then_some(home)
}
