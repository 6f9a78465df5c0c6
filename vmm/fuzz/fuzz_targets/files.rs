//! A file with these bytes, for code that opens what it is given.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// One file of this process, in memory where the host has a place for that.
pub struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    pub fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let path = dir.join(format!("perfvisor-fuzz-{name}-{}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).open(&path);
        Self {
            file: file.expect("a scratch file can be made"),
            path,
        }
    }

    /// The file, with these bytes and no others.
    pub fn holding(&mut self, bytes: &[u8]) -> &Path {
        self.file.set_len(0).expect("it can be emptied");
        self.file.rewind().expect("it can be rewound");
        self.file.write_all(bytes).expect("it can be written");
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
