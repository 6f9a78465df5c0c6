//! The executable memory around an instruction, and the RDPMC readers in it.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::paging::Paging;
use super::pattern::{self, CONTEXT};

/// Kernels map their text in pages of this size, or in parts of one.
const STEP: u64 = 2 << 20;
/// How much of it is copied at a time: what a copy takes stays with the process.
const WINDOW: u64 = 64 << 10;
/// The farthest that a scan goes in one direction: more than any kernel's text.
const FARTHEST: u64 = 128 << 20;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The guest-virtual addresses that were looked at.
    pub(super) span: Range<u64>,
    /// Each reader: its guest-virtual address, and the guest-physical one of
    /// its second byte.
    pub(super) readers: Vec<Reader>,
    /// Byte pairs that may be RDPMC and could not be told.
    pub(super) doubtful: usize,
}

/// An RDPMC whose result the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    /// RIP.
    pub(super) address: u64,
    /// The byte that makes it RDPMC.
    pub(super) second_byte: GuestAddress,
}

/// Scans the executable memory without gaps of 2 MiB around `rip` (G-502: only
/// what is mapped executable, so that no data is ever taken for code).
pub(super) fn scan(memory: &GuestMemoryMmap, paging: Paging, rip: u64) -> Scan {
    let text = Text { memory, paging };
    let home = rip & !(STEP - 1);
    let down = (1..=FARTHEST / STEP).map(|n| home.wrapping_sub(n * STEP));
    let up = (1..=FARTHEST / STEP).map(|n| home.wrapping_add(n * STEP));
    let mut steps: Vec<u64> = down.take_while(|step| text.has_code(*step)).collect();
    steps.reverse();
    steps.push(home);
    steps.extend(up.take_while(|step| text.has_code(*step)));

    let first = steps.first().copied().unwrap_or(home);
    let last = steps.last().copied().unwrap_or(home);
    let mut result = Scan {
        span: first..last.wrapping_add(STEP),
        ..Scan::default()
    };
    for step in steps {
        text.find_readers(step, &mut result);
    }
    result
}

struct Text<'a> {
    memory: &'a GuestMemoryMmap,
    paging: Paging,
}

impl Text<'_> {
    /// The executable pages that overlap `range`, as (address, guest-physical
    /// address, length) cut to the range.
    fn pages(&self, range: Range<u64>) -> impl Iterator<Item = (u64, GuestAddress, u64)> {
        const SMALLEST_PAGE: u64 = 4096;
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < range.end {
                let address = at;
                let page = self.paging.page(self.memory, address);
                let size = page.map_or(SMALLEST_PAGE, |p| p.size);
                let offset = address & (size - 1);
                let length = (size - offset).min(range.end - address);
                at = address.saturating_add(length);
                if let Some(page) = page.filter(|p| p.executable) {
                    return Some((address, GuestAddress(page.physical.0 + offset), length));
                }
            }
            None
        })
    }

    fn has_code(&self, step: u64) -> bool {
        self.pages(step..step.saturating_add(STEP)).next().is_some()
    }

    fn find_readers(&self, step: u64, result: &mut Scan) {
        for window in (0..STEP / WINDOW).map(|n| step.saturating_add(n * WINDOW)) {
            self.find_in_window(window, result);
        }
    }

    fn find_in_window(&self, window: u64, result: &mut Scan) {
        let context = CONTEXT as u64;
        let range = window.saturating_sub(context)..window.saturating_add(WINDOW + context);
        let offset = |address: u64| usize::try_from(address - range.start).unwrap_or(usize::MAX);
        // What is not executable stays zero and holds no RDPMC.
        let mut bytes = vec![0; offset(range.end)];
        for (address, physical, length) in self.pages(range.clone()) {
            let place = offset(address)..offset(address + length);
            let readable = bytes
                .get_mut(place.clone())
                .is_some_and(|slice| self.memory.read_slice(slice, physical).is_ok());
            if !readable && let Some(slice) = bytes.get_mut(place) {
                slice.fill(0);
            }
        }
        let inner = offset(window)..offset(window.saturating_add(WINDOW));
        let found = pattern::find(&bytes, inner);
        result.doubtful += found.doubtful;
        result.readers.extend(found.readers.iter().filter_map(|at| {
            let address = range.start + *at as u64;
            let page = self.paging.page(self.memory, address + 1)?;
            let second_byte = GuestAddress(page.physical.0 + (address + 1) % page.size);
            Some(Reader {
                address,
                second_byte,
            })
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::paging::tests::{Guest, PAGING};
    use super::*;

    const READER: [u8; 8] = [0x0f, 0x33, 0x66, 0x90, 0x48, 0xc1, 0xe2, 0x20];
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const NOP: u8 = 0x90;

    /// Two 2 MiB pages of text, NOPs throughout.
    fn guest() -> Guest {
        let mut guest = Guest::new();
        guest.map(TEXT, 0x20_0000, 1, false);
        guest.map(TEXT + STEP, 0x40_0000, 1, false);
        guest
            .memory
            .write_slice(&vec![NOP; 4 << 20], GuestAddress(0x20_0000))
            .unwrap();
        guest
    }

    fn put(guest: &Guest, physical: u64) {
        guest
            .memory
            .write_slice(&READER, GuestAddress(physical))
            .unwrap();
    }

    #[test]
    fn readers_are_found_from_either_end_of_the_text_and_across_a_page_border() {
        let guest = guest();
        put(&guest, 0x20_1000);
        put(&guest, 0x3f_fffd); // bytes on both sides of the border
        put(&guest, 0x5f_f000);
        for rip in [TEXT + 5, TEXT + 2 * STEP - 1] {
            let found = scan(&guest.memory, PAGING, rip);
            let addresses: Vec<_> = found.readers.iter().map(|r| r.address - TEXT).collect();
            assert_eq!(addresses, [0x1000, 0x1f_fffd, 0x3f_f000], "from {rip:#x}");
            assert_eq!(found.readers[0].second_byte, GuestAddress(0x20_1001));
            assert_eq!(found.span, TEXT..TEXT + 2 * STEP);
        }
    }

    #[test]
    fn a_reader_split_by_a_page_border_is_written_on_the_right_page() {
        let mut guest = guest();
        // The second page of text lies elsewhere in physical memory.
        guest.map(TEXT + STEP, 0x60_0000, 1, false);
        guest
            .memory
            .write_slice(&vec![NOP; 2 << 20], GuestAddress(0x60_0000))
            .unwrap();
        guest
            .memory
            .write_slice(&READER[..1], GuestAddress(0x3f_ffff))
            .unwrap();
        guest
            .memory
            .write_slice(&READER[1..], GuestAddress(0x60_0000))
            .unwrap();
        let found = scan(&guest.memory, PAGING, TEXT);
        let [reader] = found.readers[..] else {
            panic!("{found:?}")
        };
        assert_eq!(reader.second_byte, GuestAddress(0x60_0000));
    }

    /// G-502.
    #[test]
    fn data_is_not_looked_at() {
        let mut guest = guest();
        put(&guest, 0x40_0100);
        guest.map(TEXT + STEP, 0x40_0000, 1, true);
        let found = scan(&guest.memory, PAGING, TEXT);
        assert_eq!(found.readers, []);
        assert_eq!(found.span, TEXT..TEXT + STEP);
    }

    #[test]
    fn a_wild_instruction_pointer_ends_the_scan_at_once() {
        let guest = guest();
        for rip in [0, u64::MAX, 0x8000_0000_0000] {
            assert_eq!(scan(&guest.memory, PAGING, rip).readers, []);
        }
    }
}
