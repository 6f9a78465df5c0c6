//! `--memory`.

use super::ConfigError;
use super::options::{Flag, Options};

/// The least memory of a VM, in bytes.
pub const MIN_MEMORY: u64 = 8 << 20;
/// The most: what 40 physical address bits hold, less the gap below 4 GiB.
const MAX_MEMORY: u64 = 1023 << 30;
/// Memory comes in pages of this size, in bytes.
const GRAIN: u64 = 4096;

/// A page of the host's pool, in bytes.
const HUGE_PAGE: u64 = 2 << 20;

const FLAG: Flag = Flag {
    name: "--memory",
    keys: &["size", "hugepages", "prefault"],
    accepted: "size=N[K|M|G],hugepages=on|off,prefault=on|off",
};
const SIZE: &str = "8M to 1023G in whole pages of 4K, such as 512M, 2G or 536870912";

/// The memory of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Its size in bytes, a multiple of 4096.
    pub size: u64,
    /// Whether it comes from the host's pool of huge pages.
    pub hugepages: bool,
    /// Whether the host provides all of it before the guest starts.
    pub prefault: bool,
}

impl MemoryConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        let text = options.require("size")?;
        let size = parse_size(text)
            .filter(|size| (MIN_MEMORY..=MAX_MEMORY).contains(size) && size % GRAIN == 0)
            .ok_or_else(|| options.bad("size", text, SIZE))?;
        let hugepages = options.switch("hugepages")?.unwrap_or(false);
        if hugepages && size % HUGE_PAGE != 0 {
            return Err(options.bad("size", text, "whole pages of 2M with hugepages=on"));
        }
        let prefault = options.switch("prefault")?.unwrap_or(false);
        Ok(Self {
            size,
            hugepages,
            prefault,
        })
    }
}

/// Bytes, with an optional binary suffix.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("size=512M", 512 << 20),
            ("size=2G", 2 << 30),
            ("size=8192k", 8 << 20),
            ("size=8388608", 8 << 20),
        ] {
            assert_eq!(MemoryConfig::parse(text).unwrap().size, size);
        }
        for text in [
            "size=0",
            "size=",
            "size=M",
            "size=+512M",
            "size=7M",
            "size=2T",
            "size=1024G",
            "size=99999999999999999999G",
            "size=-1",
            "size=8388609",
        ] {
            let message = MemoryConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains("8M to 1023G"), "{text}: {message}");
        }
    }

    #[test]
    fn pages_and_time() {
        let parse = |text| MemoryConfig::parse(text);
        let plain = parse("size=64M,hugepages=off").unwrap();
        assert!(!plain.hugepages && !plain.prefault);
        let both = parse("size=64M,hugepages=on,prefault=on").unwrap();
        assert!(both.hugepages && both.prefault);
        for text in ["size=64M,hugepages=yes", "size=64M,prefault="] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("on, off"), "{message}");
        }
        assert!(parse("size=65M").is_ok());
        let message = parse("size=65M,hugepages=on").unwrap_err().to_string();
        assert!(message.contains("2M with hugepages=on"), "{message}");
    }
}
