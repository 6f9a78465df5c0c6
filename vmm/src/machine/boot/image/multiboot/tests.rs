use std::io::Cursor;

use super::*;

const LOAD: u32 = 0x10_0000;

fn put(bytes: &mut [u8], at: usize, words: &[u32]) {
    for (n, word) in words.iter().enumerate() {
        bytes[at + 4 * n..at + 4 * n + 4].copy_from_slice(&word.to_le_bytes());
    }
}

fn header(flags: u32) -> [u32; 3] {
    [MAGIC, flags, 0u32.wrapping_sub(MAGIC).wrapping_sub(flags)]
}

/// An ELF32 file with two segments: 0x40 bytes with the header, and 0x1000
/// zeroed ones.
fn elf(flags: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; 0xc0];
    bytes[..6].copy_from_slice(b"\x7fELF\x01\x01");
    bytes[16..20].copy_from_slice(&[2, 0, 3, 0]);
    put(&mut bytes, E_ENTRY, &[LOAD + 0x10, 52]);
    bytes[E_PHENTSIZE..E_PHENTSIZE + 4].copy_from_slice(&[32, 0, 2, 0]);
    put(&mut bytes, 52, &[1, 0x80, 0, LOAD, 0x40, 0x40, 5, 4]);
    put(
        &mut bytes,
        84,
        &[1, 0xc0, 0, LOAD + 0x1000, 0, 0x1000, 6, 4],
    );
    put(&mut bytes, 0x80, &header(flags));
    bytes
}

/// No ELF: the header is at 0x20 and says that it lies at 1 MiB + 0x10, so the
/// first 0x10 bytes of the file stay out.
fn flat(load_end: u32, bss_end: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; 0x80];
    put(&mut bytes, 0x20, &header(HAS_ADDRESSES));
    let addresses = [LOAD + 0x10, LOAD, load_end, bss_end, LOAD + 0x30];
    put(&mut bytes, 0x2c, &addresses);
    bytes
}

fn look(bytes: &[u8]) -> Result<Inspected, ImageFault> {
    super::super::inspect(&mut Cursor::new(bytes), bytes.len() as u64)
}

fn image(bytes: &[u8]) -> (MultibootImage, (u64, u64)) {
    match look(bytes).unwrap() {
        (ImageKind::Multiboot(image), span) => (image, span),
        other => panic!("{other:?}"),
    }
}

fn why(bytes: &[u8]) -> &'static str {
    match look(bytes) {
        Err(ImageFault::NotAKernel(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn elf_files_are_taken_by_their_program_headers() {
    let (image, span) = image(&elf(GIVEN));
    assert_eq!(image.entry, 0x10_0010);
    assert_eq!(span, (0x10_0000, 0x10_2000));
    let places: Vec<_> = image
        .segments
        .iter()
        .map(|s| (s.offset, s.in_file, s.address, s.in_memory))
        .collect();
    assert_eq!(
        places,
        [(0x80, 0x40, 0x10_0000, 0x40), (0xc0, 0, 0x10_1000, 0x1000)]
    );
}

#[test]
fn addresses_in_the_header_need_no_elf() {
    let part = |bytes: &[u8]| {
        let (image, span) = image(bytes);
        let [segment] = image.segments[..] else {
            panic!("{image:?}")
        };
        assert_eq!((image.entry, segment.offset), (0x10_0030, 0x10));
        (segment.in_file, span.1 - span.0)
    };
    assert_eq!(part(&flat(0, 0)), (0x70, 0x70), "the whole file");
    assert_eq!(part(&flat(LOAD + 0x60, LOAD + 0x200)), (0x60, 0x200));
}

/// "The address fields": they decide where there is an ELF header too.
#[test]
fn addresses_have_priority() {
    let mut bytes = elf(HAS_ADDRESSES);
    put(&mut bytes, 0x8c, &[LOAD, LOAD, LOAD + 0x40, 0, LOAD + 0x20]);
    let (image, span) = image(&bytes);
    assert_eq!(image.entry, 0x10_0020);
    assert_eq!(span, (0x10_0000, 0x10_0040));
}

#[test]
fn a_header_is_aligned_adds_up_and_is_near_the_start() {
    let mut bytes = vec![0u8; 0x3000];
    let at = |bytes: &mut Vec<u8>, at: usize| {
        bytes.fill(0);
        put(bytes, at, &header(0));
        has_header(&bytes[..8192])
    };
    assert!(at(&mut bytes, 0) && at(&mut bytes, 8192 - 12));
    assert!(!at(&mut bytes, 6) && !at(&mut bytes, 8192 - 8) && !at(&mut bytes, 8192));
    put(&mut bytes, 0, &[MAGIC, 0, 1]);
    assert!(!has_header(&bytes[..8192]), "a wrong checksum");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    assert!(why(&elf(1 << 2)).contains("video mode"));
    assert!(why(&elf(1 << 9)).contains("not in version 1"));
    let changed = |at: usize, value: u8| {
        let mut bytes = elf(0);
        bytes[at] = value;
        bytes
    };
    assert!(why(&changed(0x80, 0)).contains("without a multiboot header"));
    assert!(why(&changed(E_MACHINE, 40)).contains("not of i386"));
    assert!(why(&changed(52, 3)).contains("operating system"));
    assert!(why(&changed(52 + 20, 0x3f)).contains("make no sense"));
    assert!(why(&changed(E_PHENTSIZE, 31)).contains("make no sense"));
    assert!(why(&changed(E_ENTRY, 0x40)).contains("in no segment"));
    let mut bytes = flat(0, 0);
    put(&mut bytes, 0x20, &header(0));
    assert!(why(&bytes).contains("neither ELF nor says its addresses"));
    for addresses in [
        [LOAD, LOAD + 4, 0, 0, LOAD],           // the header before the text
        [LOAD + 0x24, LOAD, 0, 0, LOAD],        // the text before the file
        [LOAD + 0x10, LOAD, LOAD - 1, 0, LOAD], // an end before the start
        [LOAD + 0x10, LOAD, LOAD + 0x60, LOAD + 0x5f, LOAD],
    ] {
        put(&mut bytes, 0x20, &header(HAS_ADDRESSES));
        put(&mut bytes, 0x2c, &addresses);
        assert!(why(&bytes).contains("addresses make no sense"));
    }
    assert!(matches!(
        look(&flat(LOAD + 0x71, 0)),
        Err(ImageFault::Truncated(0x81))
    ));
}

#[test]
fn every_shorter_file_is_refused_and_no_byte_causes_a_panic() {
    for whole in [elf(0), flat(LOAD + 0x70, 0)] {
        assert!(look(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(look(&whole[..len]).is_err(), "{len}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                drop(look(&bytes));
            }
        }
    }
}
