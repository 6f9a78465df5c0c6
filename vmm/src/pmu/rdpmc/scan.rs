//! The executable memory around an instruction, and the RDPMC readers in it.

use std::ops::RangeInclusive;

use vm_memory::{Bytes, GuestAddress};

use super::pattern::{self, CONTEXT, RUN_UP};
use crate::kvm::Paging;
use crate::sys::guest_ram::GuestRam;

/// Kernels map their text in pages of this size, or in parts of one.
const STEP: u64 = 2 << 20;
/// How much of it is copied at a time: what a copy takes stays with the process.
const WINDOW: u64 = 64 << 10;
/// The farthest that a scan goes in one direction: more than any kernel's text.
const FARTHEST: u64 = 128 << 20;
/// Byte pairs that are looked at in one scan, each of which takes some 10 µs; one that may
/// be a reader counts for 16. A kernel has some dozen, a guest that wants to keep us busy
/// has millions.
const MOST_PAIRS: usize = 1_000;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The guest-virtual addresses that were looked at.
    pub(super) text: Option<RangeInclusive<u64>>,
    /// Each reader: its guest-virtual address, and the guest-physical one of
    /// its second byte.
    pub(super) readers: Vec<ReaderSite>,
    /// Byte pairs that may be RDPMC and could not be told.
    pub(super) doubtful: usize,
    /// The guest-virtual address of the first of them.
    pub(super) first_doubtful: Option<u64>,
    /// Those of them whose result would be read.
    pub(super) look_alikes: usize,
    /// Byte pairs that the scan has examined.
    pub(super) pairs: usize,
}

/// An RDPMC whose result the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReaderSite {
    /// RIP.
    pub(super) address: u64,
    /// The byte that makes it RDPMC.
    pub(super) second_byte: GuestAddress,
}

impl Scan {
    /// Whether there was more to look at than a kernel has, so that the scan was
    /// given up.
    pub(super) const fn is_given_up(&self) -> bool {
        self.pairs >= MOST_PAIRS
    }
}

/// A scan of the executable memory without a gap around an instruction (G-502: only what
/// is mapped executable, so that no data is ever taken for code), piece by piece: its
/// owner may do something else between two pieces. It keeps nothing of the guest's memory
/// but copies, so the guest may change its text meanwhile.
#[derive(Debug)]
pub(super) struct Scanning {
    paging: Paging,
    rip: u64,
    stage: ScanStage,
    /// The text, as far as it is known.
    text: RangeInclusive<u64>,
    result: Scan,
}

/// What the next piece of a scan is.
#[derive(Clone, Copy, Debug)]
enum ScanStage {
    /// Finds the text below.
    Below,
    /// Finds the text above.
    Above,
    /// Finds the readers in the window at this address.
    Readers(u64),
}

impl Scanning {
    /// A scan around `rip`; `None` if there is no executable memory.
    pub(super) fn begin(memory: &GuestRam, paging: Paging, rip: u64) -> Option<Self> {
        Some(Self {
            paging,
            rip,
            stage: ScanStage::Below,
            text: text_around(memory, paging, rip)?,
            result: Scan::default(),
        })
    }

    /// Does one piece: looks for text in 2 MiB, or for readers in 64 KiB. Returns the
    /// result at the end.
    pub(super) fn advance(&mut self, memory: &GuestRam) -> Option<Scan> {
        let text = Text {
            memory,
            paging: self.paging,
        };
        let (first, last) = (*self.text.start(), *self.text.end());
        match self.stage {
            ScanStage::Below => {
                let more = (first.is_multiple_of(STEP) && self.rip - first < FARTHEST)
                    .then(|| text.piece_with(first.checked_sub(1)?))
                    .flatten();
                match more {
                    Some(more) => self.text = *more.start()..=last,
                    None => self.stage = ScanStage::Above,
                }
            }
            ScanStage::Above => {
                let is_end_of_step = last % STEP == STEP - 1;
                let more = (is_end_of_step && last - self.rip < FARTHEST)
                    .then(|| text.piece_with(last.checked_add(1)?))
                    .flatten();
                match more {
                    Some(more) => self.text = first..=*more.end(),
                    None => self.stage = ScanStage::Readers(first & !(WINDOW - 1)),
                }
            }
            ScanStage::Readers(window) => {
                text.find_in_window(window, &self.text, &mut self.result);
                let next = window.checked_add(WINDOW);
                match next.filter(|next| *next <= last && !self.result.is_given_up()) {
                    Some(next) => self.stage = ScanStage::Readers(next),
                    None => {
                        self.result.text = Some(self.text.clone());
                        return Some(std::mem::take(&mut self.result));
                    }
                }
            }
        }
        None
    }
}

/// The executable memory without a gap around `rip`, as far as it lies in the same 2 MiB.
pub(super) fn text_around(
    memory: &GuestRam,
    paging: Paging,
    rip: u64,
) -> Option<RangeInclusive<u64>> {
    Text { memory, paging }.piece_with(rip)
}

/// Ranges that ascend, those without a gap in between made one.
fn joined(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    let mut all: Vec<RangeInclusive<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(*range.start()) => {
                *last = *last.start()..=*range.end();
            }
            _ => all.push(range),
        }
    }
    all
}

struct Text<'a> {
    memory: &'a GuestRam,
    paging: Paging,
}

impl Text<'_> {
    /// The executable pages that overlap `range`, as (address, guest-physical
    /// address, length) cut to the range.
    fn pages(&self, range: RangeInclusive<u64>) -> impl Iterator<Item = (u64, GuestAddress, u64)> {
        const SMALLEST_PAGE: u64 = 4096;
        let mut next = Some(*range.start());
        std::iter::from_fn(move || {
            while let Some(address) = next.filter(|at| range.contains(at)) {
                let page = self.paging.page(self.memory, address);
                let size = page.map_or(SMALLEST_PAGE, |p| p.size);
                let behind = range.end() - address;
                let length = (size - address % size).min(behind.saturating_add(1));
                next = address.checked_add(length);
                if let Some(page) = page.filter(|p| p.executable) {
                    return Some((address, page.at(address), length));
                }
            }
            None
        })
    }

    /// The executable part of an aligned 2 MiB that holds the address.
    fn piece_with(&self, address: u64) -> Option<RangeInclusive<u64>> {
        let step = address & !(STEP - 1);
        let pages = self.pages(step..=step + (STEP - 1));
        let parts = joined(pages.map(|(address, _, length)| address..=address + (length - 1)));
        parts.into_iter().find(|part| part.contains(&address))
    }

    /// Looks for readers in `window`, as far as it is of the text.
    fn find_in_window(&self, window: u64, own: &RangeInclusive<u64>, result: &mut Scan) {
        let first = window.saturating_sub(RUN_UP as u64);
        let last = window.saturating_add(WINDOW - 1 + CONTEXT as u64);
        let offset = |address: u64| usize::try_from(address - first).unwrap_or(usize::MAX);
        // What is not executable stays zero and holds no RDPMC.
        let mut bytes = vec![0; offset(last) + 1];
        for (address, physical, length) in self.pages(first..=last) {
            let place = offset(address)..=offset(address + (length - 1));
            let readable = bytes
                .get_mut(place.clone())
                .is_some_and(|slice| self.memory.read_slice(slice, physical).is_ok());
            if !readable && let Some(slice) = bytes.get_mut(place) {
                slice.fill(0);
            }
        }
        let end = (window + (WINDOW - 1)).min(*own.end());
        let inner = offset(window.max(*own.start()))..offset(end) + 1;
        let left = MOST_PAIRS.saturating_sub(result.pairs);
        let found = pattern::find(&bytes, inner, left);
        result.pairs += found.pairs;
        result.doubtful += found.doubtful;
        if let Some(at) = found.first_doubtful {
            result.first_doubtful.get_or_insert(first + at as u64);
        }
        result.look_alikes += found.look_alikes;
        result.readers.extend(found.readers.iter().filter_map(|at| {
            let address = first + *at as u64;
            let second = address + 1;
            Some(ReaderSite {
                address,
                second_byte: self.paging.page(self.memory, second)?.at(second),
            })
        }));
    }
}

#[cfg(test)]
impl Scanning {
    pub(super) const fn found(&self) -> &Scan {
        &self.result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::paging::tests::{Guest, PAGING};

    /// A whole scan.
    fn scan(memory: &GuestRam, paging: Paging, rip: u64) -> Option<Scan> {
        let mut scanning = Scanning::begin(memory, paging, rip)?;
        loop {
            if let Some(found) = scanning.advance(memory) {
                return Some(found);
            }
        }
    }

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
            let found = scan(&guest.memory, PAGING, rip).unwrap();
            let addresses: Vec<_> = found.readers.iter().map(|r| r.address - TEXT).collect();
            assert_eq!(addresses, [0x1000, 0x1f_fffd, 0x3f_f000], "from {rip:#x}");
            assert_eq!(found.readers[0].second_byte, GuestAddress(0x20_1001));
            assert_eq!(found.text, Some(TEXT..=TEXT + 2 * STEP - 1));
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
        let found = scan(&guest.memory, PAGING, TEXT).unwrap();
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
        let found = scan(&guest.memory, PAGING, TEXT).unwrap();
        assert_eq!(found.readers, []);
        assert_eq!(found.text, Some(TEXT..=TEXT + STEP - 1));
    }

    #[test]
    fn a_wild_instruction_pointer_has_no_text() {
        let guest = guest();
        for rip in [
            0,
            u64::MAX,
            0x8000_0000_0000,
            TEXT - 1,
            TEXT & 0xffff_ffff_ffff,
        ] {
            assert_eq!(scan(&guest.memory, PAGING, rip), None, "{rip:#x}");
        }
    }

    /// The text at one end of the address space does not go on at the other.
    #[test]
    fn the_ends_of_the_address_space_are_ends() {
        let mut guest = guest();
        let top = u64::MAX - (STEP - 1);
        guest.map(top, 0x20_0000, 1, false);
        guest.map(0, 0x40_0000, 1, false);
        put(&guest, 0x20_1000);
        for rip in [top, top + 0x1234, u64::MAX] {
            let found = scan(&guest.memory, PAGING, rip).unwrap();
            let addresses: Vec<_> = found.readers.iter().map(|r| r.address).collect();
            assert_eq!(addresses, [top + 0x1000], "from {rip:#x}");
            let text = found.text.unwrap();
            assert!(text.contains(&rip) && text.contains(&top) && !text.contains(&0));
        }
        let found = scan(&guest.memory, PAGING, 5).unwrap();
        assert_eq!(found.text, Some(0..=STEP - 1));
    }

    /// A module, or code that a program of the guest has made, is no kernel's text.
    #[test]
    fn the_text_ends_where_something_is_not_executable() {
        let mut guest = guest();
        let next = TEXT + 2 * STEP;
        for (page, nx) in [(0, false), (1, true), (2, false), (3, false)] {
            guest.map(next + page * 0x1000, 0x60_0000 + page * 0x1000, 0, nx);
        }
        let nops = vec![NOP; 0x4000];
        guest
            .memory
            .write_slice(&nops, GuestAddress(0x60_0000))
            .unwrap();
        put(&guest, 0x60_0ff0);
        put(&guest, 0x60_2100);
        for (rip, text, physical) in [
            (TEXT, TEXT..=next + 0xfff, 0x60_0ff0),
            (next + 0x2000, next + 0x2000..=next + 0x3fff, 0x60_2100),
        ] {
            let found = scan(&guest.memory, PAGING, rip).unwrap();
            assert_eq!(found.text, Some(text));
            let addresses: Vec<_> = found.readers.iter().map(|r| r.second_byte.0 - 1).collect();
            assert_eq!(addresses, [physical], "the other one is not looked at");
        }
    }

    /// One page at as many addresses as a scan can reach, full of what it looks
    /// for.
    #[test]
    fn the_work_of_a_scan_has_an_end() {
        for pattern in [&READER[..2], &READER] {
            let mut guest = Guest::new();
            for n in 0..200 {
                guest.map(TEXT + n * STEP, 0x40_0000, 1, false);
            }
            let bytes = pattern.repeat((2 << 20) / pattern.len());
            guest
                .memory
                .write_slice(&bytes, GuestAddress(0x40_0000))
                .unwrap();
            let found = scan(&guest.memory, PAGING, TEXT + 100 * STEP).unwrap();
            assert!(found.is_given_up());
            assert!(found.pairs < MOST_PAIRS + 16 && found.readers.len() < 64);
            let text = found.text.unwrap();
            assert_eq!(text.end() - text.start() + 1, 2 * FARTHEST + STEP);
        }
    }
}
