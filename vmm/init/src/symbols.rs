//! The symbols of the guest's kernel on their way to the host, where `perf report` looks
//! for them.
//!
//! They lie as `perf buildid-cache --kcore` lays them: in the folder
//! `~/.debug/[kernel.kcore]/BUILD-ID/VARIANT` the files [`KALLSYMS`] and [`MODULES`].
//! perf looks there first, and takes a variant whose modules are where they were.

use std::path::PathBuf;

/// perf's cache in a home.
pub const CACHE: &str = ".debug";
/// Where `perf record` leaves the symbols of a kernel that it has seen, in [`CACHE`].
pub const RECORDED: &str = "[kernel.kallsyms]";
/// Where they are kept with the modules' places, in [`CACHE`].
pub const KEPT: &str = "[kernel.kcore]";
/// The file of symbols, as /proc/kallsyms.
pub const KALLSYMS: &str = "kallsyms";
/// The file of the modules' places, as /proc/modules.
pub const MODULES: &str = "modules";
/// The most bytes of a file.
pub const LARGEST: u32 = 128 << 20;

/// A kernel's build id, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildId(String);

/// The type of the note with a build id, and its owner (`elf.h`).
const NT_GNU_BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";

impl BuildId {
    /// Takes hexadecimal text, of any length that linkers make.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        (hex && (2..=128).contains(&text.len())).then(|| Self(text.to_owned()))
    }

    /// Finds it among ELF notes, as in /sys/kernel/notes.
    #[must_use]
    pub fn of_notes(mut notes: &[u8]) -> Option<Self> {
        loop {
            let word = |at: usize| {
                let bytes = notes.get(at..at + 4)?.try_into().ok()?;
                Some(u32::from_ne_bytes(bytes))
            };
            let (name_len, len, kind) = (word(0)?, word(4)?, word(8)?);
            let (name_len, len) = (name_len as usize, len as usize);
            let name = notes.get(12..12usize.checked_add(name_len)?)?;
            let at = 12 + name_len.next_multiple_of(4);
            let value = notes.get(at..at.checked_add(len)?)?;
            if kind == NT_GNU_BUILD_ID && name == OWNER {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                return Self::from_hex(&hex);
            }
            notes = notes.get(at + len.next_multiple_of(4)..)?;
        }
    }

    /// The text.
    #[must_use]
    pub fn as_hex(&self) -> &str {
        &self.0
    }

    /// Where perf keeps the symbols of this kernel with these modules, below [`CACHE`].
    #[must_use]
    pub fn kept(&self, modules: &[u8]) -> PathBuf {
        [KEPT, &self.0, &variant(modules)].iter().collect()
    }

    /// Where `perf record` has left them, below [`CACHE`].
    #[must_use]
    pub fn recorded(&self) -> PathBuf {
        [RECORDED, &self.0].iter().collect()
    }
}

/// A name for where these modules are: of their names and addresses, as the other columns
/// of /proc/modules change while a guest runs (FNV-1a, 64 bits).
fn variant(modules: &[u8]) -> String {
    let mut lines: Vec<_> = modules
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut words = line.split(|&byte| byte == b' ');
            let name = words.next().filter(|name| !name.is_empty())?;
            let address = words.find(|word| word.starts_with(b"0x"))?;
            Some([name, address])
        })
        .collect();
    lines.sort_unstable();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in lines
        .into_iter()
        .flatten()
        .flat_map(|word| [word, b" "])
        .flatten()
    {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("perfvisor-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let lengths = [owner, value].map(|part| u32::try_from(part.len()).unwrap());
        for word in lengths.into_iter().chain([kind]) {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        for part in [owner, value] {
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let mut notes = note(b"Xen\0", 3, b"12345");
        notes.extend(note(b"Linux\0", 0x100, &[]));
        assert_eq!(BuildId::of_notes(&notes), None);
        notes.extend(note(b"GNU\0", 3, &[0xab, 0x01]));
        assert_eq!(BuildId::of_notes(&notes).unwrap().as_hex(), "ab01");
        // Two bytes at the end fill up to four.
        for len in 0..notes.len() - 2 {
            assert_eq!(BuildId::of_notes(&notes[..len]), None, "{len}");
        }
        let mut wild = note(b"GNU\0", 3, &[1]);
        wild[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(BuildId::of_notes(&wild), None);
    }

    /// The guest chooses the text, and it becomes a part of a path.
    #[test]
    fn only_hexadecimal_text_is_a_build_id() {
        for text in ["", "a", "..", "../../etc", "AB", "ab/cd", "ab\0"] {
            assert_eq!(BuildId::from_hex(text), None, "{text:?}");
        }
        assert_eq!(BuildId::from_hex(&"a".repeat(130)), None);
        assert!(BuildId::from_hex(&"0a".repeat(20)).is_some());
    }

    #[test]
    fn a_variant_is_where_the_modules_are() {
        let id = BuildId::from_hex("ab").unwrap();
        let kept = |text: &str| id.kept(text.as_bytes());
        let first = kept("fuse 200704 3 virtiofs, Live 0xffffffffc0200000\nb 1 0 - Live 0x1\n");
        let busier = kept("b 1 0 - Live 0x1\nfuse 200704 4 virtiofs, Live 0xffffffffc0200000\n");
        assert_eq!(first, busier);
        assert!(first.starts_with("[kernel.kcore]/ab"), "{first:?}");
        assert_ne!(first, kept("fuse 200704 3 - Live 0xffffffffc0300000\n"));
        assert_ne!(first, kept(""));
    }
}
