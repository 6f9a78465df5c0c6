//! The programs of guest-tests that measure on a host, for the lines that name them.

use std::path::Path;

use anyhow::Result;

use crate::cpio::Cpio;
use crate::nested::Job;
use crate::place::Place;
use crate::programs;

/// Where the programs are, in a line; with them `init.cpio`, an initramfs whose `/init` is
/// `first_line`.
const FOLDER: &str = "{bench}";

/// Gives `job` the programs if `line` names their folder, and the line their places.
///
/// # Errors
/// If they do not build.
pub(super) fn place(line: &str, place: &Place, job: &mut Job) -> Result<String> {
    if !line.contains(FOLDER) {
        return Ok(line.to_owned());
    }
    for (name, path) in programs::bench()? {
        job.add(format!("images/{name}"), &path)?;
        if name == "first_line" {
            job.add_bytes("images/init.cpio".into(), init(&path)?);
        }
    }
    Ok(line.replace(FOLDER, &place.job_file("")))
}

fn init(program: &Path) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new(Vec::new());
    cpio.console()?;
    cpio.copy("init", 0o755, program)?;
    cpio.finish()
}
