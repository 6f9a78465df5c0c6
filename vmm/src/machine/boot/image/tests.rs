use std::io::Cursor;

use super::*;

fn look(bytes: &[u8]) -> Result<Inspected, ImageFault> {
    inspect(&mut Cursor::new(bytes), bytes.len() as u64)
}

/// An ELF file with one segment of `len` bytes at 2 MiB.
fn elf(len: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; 120];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[E_MACHINE] = 62;
    bytes[E_ENTRY..E_ENTRY + 8].copy_from_slice(&0x20_0000u64.to_le_bytes());
    bytes[E_PHOFF] = 64;
    bytes[E_PHENTSIZE] = 56;
    bytes[E_PHNUM] = 1;
    bytes[64] = 1;
    bytes[72] = 120;
    bytes[88..96].copy_from_slice(&0x20_0000u64.to_le_bytes());
    bytes[96..104].copy_from_slice(&(len as u64).to_le_bytes());
    bytes[104..112].copy_from_slice(&(len as u64 + 64).to_le_bytes());
    bytes.resize(120 + len, 0x90);
    bytes
}

fn bzimage() -> Vec<u8> {
    let header = setup_header {
        setup_sects: 1,
        syssize: 0x100,
        header: HEADER_MAGIC,
        version: 0x20f,
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64,
        initrd_addr_max: 0x7fff_ffff,
        payload_offset: 0x100,
        payload_length: 0xe00,
        pref_address: 0x100_0000,
        init_size: 0x80_0000,
        ..setup_header::default()
    };
    let mut bytes = vec![0u8; 0x400 + 0x1000];
    let at = 0x1f1;
    bytes[at..at + header.as_slice().len()].copy_from_slice(header.as_slice());
    bytes
}

#[test]
fn whole_files_are_taken() {
    assert_eq!(
        look(&elf(100)).unwrap(),
        (ImageKind::Elf, (0x20_0000, 0x20_0000 + 164))
    );
    let (kind, span) = look(&bzimage()).unwrap();
    assert_eq!(
        kind,
        ImageKind::BzImage {
            ramdisk_limit: 0x8000_0000
        }
    );
    assert_eq!(span, (0x10_0000, 0x180_0000));
}

#[test]
fn every_shorter_file_is_refused() {
    for whole in [elf(100), bzimage()] {
        for len in 0..whole.len() {
            // The last paragraph of a bzImage may be partial.
            if whole.starts_with(b"\x7fELF") || len < whole.len() - 15 {
                assert!(look(&whole[..len]).is_err(), "{len}");
            }
        }
    }
}

#[test]
fn no_byte_of_the_headers_can_cause_a_panic() {
    for whole in [elf(16), bzimage()] {
        for at in 0..0x260.min(whole.len()) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                drop(look(&bytes));
            }
        }
    }
}

#[test]
fn text_is_no_kernel() {
    let text = b"#!/bin/sh\necho hello\n".repeat(100);
    assert!(matches!(look(&text), Err(ImageFault::NotAKernel(_))));
    assert!(matches!(
        look(b""),
        Err(ImageFault::NotAKernel("it is empty"))
    ));
}

/// Found by fuzzing: a place near the end of the address space.
#[test]
fn a_kernel_that_would_end_beyond_all_addresses_needs_more_memory_than_there_is() {
    let mut whole = bzimage();
    let pref_address = 0x258;
    whole[pref_address..pref_address + 8].fill(0xff);
    let (kind, span) = look(&whole).unwrap();
    assert_eq!(span.1, u64::MAX);
    let path = std::env::temp_dir().join(format!("archive-{}", std::process::id()));
    std::fs::write(&path, b"\x1f\x8b packed").unwrap();
    let mut initramfs = super::super::Initramfs::open(
        std::slice::from_ref(&path),
        super::super::initramfs::RamdiskForm::Archives,
    )
    .unwrap();
    let InputFile { file, id, .. } = InputFile::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let inputs = super::super::BootInputs {
        kernel: &mut KernelImage {
            file,
            id,
            kind,
            span,
            path: std::path::PathBuf::new(),
        },
        initramfs: &mut initramfs,
        cmdline: "",
        map: &[],
        low_ram: 1 << 30,
    };
    let placed = super::super::place_ramdisk(&inputs, span.1);
    let error = placed.unwrap_err().to_string();
    assert!(
        error.starts_with("--memory: 1024 MiB are too little"),
        "{error}"
    );
}
