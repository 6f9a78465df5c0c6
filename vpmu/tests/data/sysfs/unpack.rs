// A recorded sysfs tree, unpacked for one test. `tests` modules of both crates
// include this file; the format is one `path: content` a line, `#` a comment.

/// A tree in a directory of its own, removed at the end.
#[derive(Debug)]
pub(super) struct Tree(pub(super) std::path::PathBuf);

impl Tree {
    /// Unpacks `text` under a name that no other test uses.
    pub(super) fn unpack(name: &str, text: &str) -> Self {
        let root = std::env::temp_dir().join(format!("sysfs-{name}-{}", std::process::id()));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (path, content) = line.split_once(": ").unwrap();
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{content}\n")).unwrap();
        }
        Self(root)
    }

    /// What reads it.
    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::at(&self.0)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
