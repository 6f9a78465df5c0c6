//! The uncompressed kernel (`vmlinux`) inside a bzImage.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Writes the ELF image that the bzImage `from` unpacks at boot to `to`.
///
/// # Errors
/// If `from` is no bzImage of boot protocol 2.08 or later, or its compression is unknown.
pub(crate) fn extract(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let payload = payload(&image).with_context(|| format!("{} is no kernel", from.display()))?;
    let program = decompressor(payload)?;
    let packed = to.with_extension("packed");
    // The last four bytes are the unpacked size, which the tools would trip over.
    fs::write(&packed, &payload[..payload.len() - 4])?;
    let out = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let status = Command::new(program)
        .args(["-d", "-c", "-q"])
        .stdin(fs::File::open(&packed)?)
        .stdout(out)
        .stderr(Stdio::inherit())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    fs::remove_file(&packed)?;
    if !status.success() {
        bail!(
            "{program} cannot unpack the kernel inside {}",
            from.display()
        );
    }
    Ok(())
}

/// The compressed kernel: Linux `Documentation/arch/x86/boot.rst`, `payload_offset`.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("no `HdrS` at offset 0x202");
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = word(0x248).map(|offset| (setup_sectors + 1) * 512 + offset);
    let payload = start
        .zip(word(0x24c))
        .and_then(|(start, len)| image.get(start..start + len));
    match payload {
        Some(payload) if payload.len() > 8 => Ok(payload),
        _ => bail!("its payload lies outside of the file: is it truncated?"),
    }
}

fn decompressor(payload: &[u8]) -> Result<&'static str> {
    match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => Ok("lz4"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok("zstd"),
        [0xfd, b'7', b'z', b'X', ..] => Ok("xz"),
        _ => bail!(
            "unknown compression {:02x?}: lz4, zstd and xz are known",
            &payload[..4]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_found_by_the_setup_header() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 3;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&64u32.to_le_bytes());
        image[2064..2068].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        let found = payload(&image).unwrap();
        assert_eq!(found.len(), 64);
        assert_eq!(decompressor(found).unwrap(), "zstd");
        image.truncate(2100);
        assert!(payload(&image).is_err());
        assert!(payload(b"short").is_err());
    }
}
