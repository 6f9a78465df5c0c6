//! The kernel's modules, in the order of their files' names.

use std::ffi::CStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use guest_words::{FOLDER, MODULES};
use rustix::io::Errno;
use rustix::system;

use crate::{Failure, failed};

/// `MODULE_INIT_COMPRESSED_FILE` of `finit_module(2)`.
const COMPRESSED: i32 = 4;
const NO_PARAMETERS: &CStr = c"";

/// Loads those that the initramfs holds.
pub(super) fn load() -> Result<(), Failure> {
    let folder = format!("{FOLDER}/{MODULES}");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(format_args!("read {folder}")))?,
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        load_one(&path)?;
        // Its memory is the guest's again.
        drop(fs::remove_file(&path));
    }
    Ok(())
}

fn load_one(path: &Path) -> Result<(), Failure> {
    let step = || format!("load {}", path.display());
    let file = fs::File::open(path).map_err(failed(step()))?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let flags = if compressed { COMPRESSED } else { 0 };
    match system::finit_module(&file, NO_PARAMETERS, flags) {
        // It is there already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed(step())(error)),
    }
}
