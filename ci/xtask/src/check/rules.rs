//! The project's own rules: file sizes, who may name what, one version of each
//! rust-vmm crate.

use anyhow::{Context, Result, bail};

use super::source::{self, Source};
use crate::{paths, say};

const SOFT_LINES: usize = 400;
const HARD_LINES: usize = 800;

/// Words that a folder's code must not name, except in some of its folders.
struct Purity {
    folder: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

/// Any name with these letters in it, large or small.
const KVM: &str = "kvm";

const PURITY: [Purity; 4] = [
    Purity {
        folder: "vpmu/src/",
        except: &[],
        words: &[KVM],
        why: "vpmu knows no hypervisor",
    },
    Purity {
        folder: "vpmu/src/",
        except: &["vpmu/src/host/linux/"],
        words: &[
            "RawFd",
            "OwnedFd",
            "BorrowedFd",
            "AsRawFd",
            "AsFd",
            "File",
            "libc",
        ],
        why: "only host::linux has file descriptors",
    },
    Purity {
        folder: "vpmu/src/",
        except: &["vpmu/src/bin/"],
        words: &[
            "std::thread",
            "thread::spawn",
            "std::time",
            "Mutex",
            "RwLock",
            "Instant",
            "SystemTime",
            "log::",
            "println",
            "eprintln",
        ],
        why: "vpmu has no threads, no clocks and no logs of its own",
    },
    Purity {
        folder: "vmm/src/",
        except: &["vmm/src/kvm/"],
        words: &["kvm_ioctls", "kvm_bindings"],
        why: "only vmm::kvm speaks KVM's language",
    },
];

/// No file is too long.
pub(super) fn sizes() -> Result<()> {
    let mut too_long = Vec::new();
    for source in source::all()? {
        let lines = source.code_lines();
        if lines > HARD_LINES {
            too_long.push(format!(
                "{}: {lines} lines, at most {HARD_LINES}",
                source.path
            ));
        } else if lines > SOFT_LINES {
            say!(
                "{}: {lines} lines without tests, better at most {SOFT_LINES}",
                source.path
            );
        }
    }
    verdict(&too_long)
}

/// Nobody names what is not theirs.
pub(super) fn purity() -> Result<()> {
    let mut found = Vec::new();
    for source in source::all()? {
        for rule in &PURITY {
            rule.apply(&source, &mut found);
        }
    }
    verdict(&found)
}

impl Purity {
    fn apply(&self, source: &Source, found: &mut Vec<String>) {
        let path = source.path.as_str();
        if !path.starts_with(self.folder) || self.except.iter().any(|e| path.starts_with(e)) {
            return;
        }
        for (line, code) in source.code() {
            if let Some(name) = self.words.iter().find(|word| names(&code, word)) {
                found.push(format!("{path}:{line}: `{name}`: {}", self.why));
            }
        }
    }
}

/// Whether code has a name, not only as a part of a longer one.
fn names(code: &str, name: &str) -> bool {
    if name == KVM {
        return code.to_lowercase().contains(KVM);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let open = |c: Option<char>| !c.is_some_and(is_word);
        let after = code[at + name.len()..].chars().next();
        open(code[..at].chars().next_back()) && (name.ends_with(':') || open(after))
    })
}

/// One version of each rust-vmm crate.
pub(super) fn versions() -> Result<()> {
    let lock = std::fs::read_to_string(paths::root().join("Cargo.lock"))
        .context("cannot read Cargo.lock")?;
    verdict(&duplicates(&lock))
}

const RUST_VMM: [&str; 12] = [
    "acpi_tables",
    "event-manager",
    "kvm-bindings",
    "kvm-ioctls",
    "linux-loader",
    "seccompiler",
    "vhost",
    "virtio-queue",
    "vm-allocator",
    "vm-memory",
    "vm-superio",
    "vmm-sys-util",
];

fn duplicates(lock: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in RUST_VMM {
        let line = format!("name = \"{name}\"");
        let mut versions = Vec::new();
        let mut lines = lock.lines();
        while lines.any(|l| l == line) {
            versions.extend(lines.next().and_then(|l| l.strip_prefix("version = ")));
        }
        if versions.len() > 1 {
            found.push(format!(
                "{name} has {} versions: {}",
                versions.len(),
                versions.join(", ")
            ));
        }
    }
    found
}

/// Fails with all complaints, if there are any.
pub(super) fn verdict(complaints: &[String]) -> Result<()> {
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{}", complaints.join("\n        "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_versions_are_found() {
        let one = "[[package]]\nname = \"vm-memory\"\nversion = \"0.18.0\"\n";
        assert!(duplicates(one).is_empty());
        let two = format!("{one}\n{}", one.replace("0.18", "0.17"));
        assert_eq!(duplicates(&two).len(), 1);
    }

    #[test]
    fn words_count_only_as_whole_words_of_code() {
        let check = |path: &str, text: &str| {
            let source = Source::new(path, text);
            let mut found = Vec::new();
            PURITY
                .iter()
                .for_each(|rule| rule.apply(&source, &mut found));
            found.len()
        };
        assert_eq!(
            check("vpmu/src/a.rs", "// kvm\nlet catalog = 1; let logs = 2;"),
            0
        );
        assert_eq!(check("vpmu/src/a.rs", "use std::thread;"), 1);
        assert_eq!(check("vpmu/src/a.rs", "log::warn!(); backlog::x();"), 1);
        assert_eq!(check("vpmu/src/a.rs", "struct KvmPmu;"), 1);
        assert_eq!(check("vpmu/src/host/linux/a.rs", "let f: OwnedFd;"), 0);
        assert_eq!(check("vpmu/src/host/sim.rs", "let f: OwnedFd;"), 1);
        assert_eq!(check("vmm/src/kvm/vm.rs", "use kvm_ioctls::VmFd;"), 0);
        assert_eq!(check("vmm/src/run.rs", "use kvm_ioctls::VmFd;"), 1);
    }
}
