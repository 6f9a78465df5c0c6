//! The symbols of the guest's kernel, kept for the host's `perf report`: in perf's own
//! cache, as `perf buildid-cache --kcore` keeps those of the host's kernel.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use guest_words::MessageReader;
use guest_words::symbols::{BuildId, CACHE, KALLSYMS, LARGEST, MODULES};

/// Reads what follows a message of symbols, and keeps it in the caller's home, if there is
/// one. Whatever the host refuses, the bytes are read, so that the next message is found.
pub(super) fn take(
    reader: &mut MessageReader<impl Read>,
    lengths: [u32; 3],
    home: Option<PathBuf>,
) -> io::Result<()> {
    if lengths.iter().any(|len| *len > LARGEST) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut parts = [const { Vec::new() }; 3];
    for (part, len) in parts.iter_mut().zip(lengths) {
        *part = reader.bytes(len)?;
    }
    let [id, symbols, modules] = parts;
    let id = String::from_utf8(id)
        .ok()
        .and_then(|id| BuildId::from_hex(&id));
    let (Some(id), Some(home)) = (id, home) else {
        return Ok(());
    };
    match keep(&home, &id, &symbols, &modules) {
        Ok(folder) => log::info!("the kernel's symbols are in {}", folder.display()),
        Err(error) => log::warn!("the kernel's symbols cannot be kept in {CACHE}: {error}"),
    }
    Ok(())
}

/// Writes the files; returns their folder.
fn keep(home: &Path, id: &BuildId, symbols: &[u8], modules: &[u8]) -> io::Result<PathBuf> {
    let folder = home.join(CACHE).join(id.kept(modules));
    fs::create_dir_all(&folder)?;
    // The symbols last: without them perf does not look at the modules.
    for (name, bytes) in [(MODULES, modules), (KALLSYMS, symbols)] {
        let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
        let written = File::create(&unfinished)
            .and_then(|mut file| io::Write::write_all(&mut file, bytes))
            .and_then(|()| fs::rename(&unfinished, folder.join(name)));
        if let Err(error) = written {
            drop(fs::remove_file(&unfinished));
            return Err(error);
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn the_files_are_where_perf_looks() {
        let scratch = Scratch::new("exec-symbols");
        let id = BuildId::from_hex("0123abcd").unwrap();
        let modules = b"fuse 1 0 - Live 0xffffffffc0000000\n";
        for symbols in ["old", "0 T _text\n"] {
            keep(&scratch.0, &id, symbols.as_bytes(), modules).unwrap();
        }
        let kept = scratch.0.join(".debug/[kernel.kcore]/0123abcd");
        let variants: Vec<_> = fs::read_dir(kept).unwrap().flatten().collect();
        assert_eq!(variants.len(), 1);
        let files = fs::read_dir(variants[0].path()).unwrap().flatten();
        let mut files: Vec<_> = files.map(|file| file.file_name()).collect();
        files.sort();
        assert_eq!(files, ["kallsyms", "modules"]);
        let symbols = fs::read(variants[0].path().join("kallsyms")).unwrap();
        assert_eq!(symbols, b"0 T _text\n");
    }

    /// The guest says how much it sends, and what its build id is.
    #[test]
    fn a_guest_can_neither_fill_our_memory_nor_leave_the_folder() {
        let scratch = Scratch::new("exec-symbols-hostile");
        let home = || Some(scratch.0.clone());
        let mut reader = MessageReader::new(&b"../xabcd"[..]);
        assert!(take(&mut reader, [u32::MAX, 0, 0], home()).is_err());
        // No build id: read, and not kept.
        take(&mut reader, [4, 0, 0], home()).unwrap();
        take(&mut reader, [4, 0, 0], None).unwrap();
        assert!(take(&mut reader, [1, 0, 0], home()).is_err());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    }
}
