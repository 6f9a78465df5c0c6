//! A guest's memory whose every byte the fuzzer decides.

use vm_memory::{Bytes, GuestAddress};

use super::super::pattern::{RDMSR, RDPMC};
use crate::fuzz_input::FuzzInput;
use crate::kvm::Paging;
use crate::sys::guest_ram::GuestRam;

/// Guest memory: text, and the page tables at its end.
const RAM: usize = 4 << 20;
/// The first page table.
const TABLES: u64 = 3 << 20;
const PAGE: u64 = 4096;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Addresses at which a guest has something, or that are ends.
const BASES: [u64; 8] = [
    0xffff_ffff_8100_0000,
    0xffff_fe00_0000_0000,
    0x40_0000,
    0xffff_ffff_8120_0000,
    0x7fff_ffff_f000,
    0xffff_ffff_ffe0_0000,
    0,
    0xffff_ffff_7fff_f000,
];

/// Bytes that mean something to the service: readers, entries, the gate of #GP.
const SNIPPETS: [&[u8]; 12] = [
    &[0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20],
    &[0x0f, 0x33, 0x66, 0x90, 0x48, 0xc1, 0xe2, 0x20],
    &RDPMC,
    &RDMSR,
    &[0x0f, 0x01, 0xca, 0xfc],
    &[0x90, 0x90, 0x90, 0xfc],
    &[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xca, 0xfc],
    &[0x0f, 0x1f, 0x00, 0xe8, 0, 1, 0, 0],
    &[0x48, 0xcf],
    // A gate for #GP at 0xffff_ffff_8100_1000.
    &[
        0, 0x10, 0x10, 0, 0, 0x8e, 0, 0x81, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ],
    &[0x90; 64],
    // xor eax, imm32 with what looks like RDPMC.
    &[0x35, 0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20],
];

/// The begins of a #GP entry in place of which a doorbell may be put, and it.
const BEGINNINGS: [[u8; 3]; 3] = [[0x0f, 0x01, 0xca], [0x90; 3], [0x0f, 0x1f, 0x00]];
const BELL: [u8; 3] = [0xe6, 0xe6, 0x90];

/// The page tables that a guest starts with.
const FIRST_PAGING: Paging = Paging {
    cr3: TABLES,
    levels: 4,
};

/// Guest memory, and how one vCPU translates.
pub(super) struct HostileGuest {
    pub(super) memory: GuestRam,
    pub(super) paging: Paging,
    next_table: u64,
    /// The memory as it was when it was last remembered.
    before: Vec<u8>,
}

impl HostileGuest {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            memory: GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).ok()?,
            paging: FIRST_PAGING,
            next_table: TABLES + PAGE,
            before: vec![0; RAM],
        })
    }

    /// Empties the memory. Fresh memory would cost a page fault for each of its pages,
    /// and with each input.
    pub(super) fn reset(&mut self) {
        self.paging = FIRST_PAGING;
        self.next_table = TABLES + PAGE;
        self.before.fill(0);
        let emptied = self.memory.write_slice(&self.before, GuestAddress(0));
        assert!(emptied.is_ok());
    }

    /// An address near one of the bases, or any.
    pub(super) fn address(&self, input: &mut FuzzInput<'_>) -> u64 {
        let form = input.byte();
        let base = BASES[usize::from(form % 8)];
        let [low, high] = [input.byte(), input.byte()];
        let offset = u64::from(u16::from_le_bytes([low, high]));
        match form >> 4 {
            0..=9 => base.wrapping_add(offset),
            10 | 11 => base.wrapping_add(offset * PAGE),
            12 | 13 => base.wrapping_sub(offset),
            _ => input.word(),
        }
    }

    fn place(input: &mut FuzzInput<'_>) -> u64 {
        let [low, middle, high] = [input.byte(), input.byte(), input.byte()];
        u64::from(u32::from_le_bytes([low, middle, high, 0])) % RAM as u64
    }

    /// Maps a page, by tables that are made on the way.
    pub(super) fn map(&mut self, input: &mut FuzzInput<'_>) {
        let address = self.address(input);
        let form = input.byte();
        let level = match form & 0xf {
            0..=8 => 0,
            9..=14 => 1,
            _ => 2,
        };
        let physical = u64::from(input.byte()) * if level == 0 { PAGE } else { PAGE << 9 };
        let nx = if form & 0x10 == 0 { 0 } else { NO_EXECUTE };
        let large = if level == 0 { 0 } else { LARGE };
        // A run of pages, often.
        let pages = if form & 0x20 == 0 {
            1
        } else {
            1 + u64::from(form >> 6)
        };
        for n in 0..pages {
            let step = n << (12 + 9 * level);
            let entry = physical.wrapping_add(step) | PRESENT | large | nx;
            // Without room for tables, nothing is mapped.
            let _ = self.set_entry(address.wrapping_add(step), level, entry);
        }
    }

    fn set_entry(&mut self, address: u64, level: u32, entry: u64) -> Option<()> {
        let mut table = self.paging.cr3 & !(PAGE - 1);
        let slot_in =
            |table: u64, at: u32| GuestAddress(table + (address >> (12 + 9 * at) & 0x1ff) * 8);
        for at in (level + 1..self.paging.levels).rev() {
            let slot = slot_in(table, at);
            let there: u64 = self.memory.read_obj(slot).ok()?;
            table = if there & PRESENT == 0 {
                let new = self.next_table;
                self.next_table += PAGE;
                (self.next_table <= RAM as u64).then_some(())?;
                self.memory.write_obj(new | PRESENT, slot).ok()?;
                new
            } else {
                there & 0x000f_ffff_ffff_f000
            };
        }
        self.memory.write_obj(entry, slot_in(table, level)).ok()
    }

    /// Any bytes anywhere, in the page tables too.
    pub(super) fn put_bytes(&self, input: &mut FuzzInput<'_>) {
        let place = Self::place(input);
        let len = usize::from(input.byte());
        let _ = self.memory.write(input.take(len), GuestAddress(place));
    }

    /// Bytes that mean something, once or again and again.
    pub(super) fn put_snippet(&self, input: &mut FuzzInput<'_>) {
        let form = input.byte();
        let snippet = SNIPPETS[usize::from(form) % SNIPPETS.len()];
        let place = Self::place(input);
        let often = if form & 0x80 == 0 {
            1
        } else {
            usize::from(input.byte()) + 1
        };
        let _ = self
            .memory
            .write(&snippet.repeat(often), GuestAddress(place));
    }

    /// Other page tables, of another mode.
    pub(super) fn change_paging(&mut self, input: &mut FuzzInput<'_>) {
        let form = input.byte();
        let cr3 = match form >> 1 & 3 {
            0 | 1 => TABLES,
            2 => Self::place(input),
            _ => input.word(),
        };
        let levels = match form >> 3 & 7 {
            5 => 0,
            6 => 2,
            7 => 3,
            _ => 4 + u32::from(form & 1),
        };
        self.paging = Paging { cr3, levels };
    }

    /// Remembers the memory as it is, for [`changes`](Self::changes).
    pub(super) fn remember(&mut self) {
        let read = self.memory.read_slice(&mut self.before, GuestAddress(0));
        assert!(read.is_ok());
    }

    /// The guest-physical addresses whose bytes have changed since.
    pub(super) fn changes(&self) -> Vec<u64> {
        let mut now = [0; 4096];
        let mut changes = Vec::new();
        for (page, before) in (0..).step_by(now.len()).zip(self.before.chunks(now.len())) {
            assert!(self.memory.read_slice(&mut now, GuestAddress(page)).is_ok());
            if now != *before {
                let pairs = (page..).zip(before.iter().zip(&now));
                changes.extend(pairs.filter(|(_, (a, b))| a != b).map(|(at, _)| at));
            }
        }
        changes
    }

    /// The bytes of RIP and RFLAGS in the frame at `rsp`.
    pub(super) fn words_of_frame(&self, rsp: u64) -> Vec<u64> {
        let slot = if self.paging.is_long() { 8 } else { 4 };
        let slots = [rsp.checked_add(slot), rsp.checked_add(3 * slot)];
        let physical = |slot: u64| Some(self.paging.page(&self.memory, slot)?.at(slot).0);
        let starts = slots.into_iter().flatten().filter_map(physical);
        starts.flat_map(|start| start..start + slot).collect()
    }

    /// Whether the byte, the second one of an RDPMC, has become that of RDMSR. The
    /// first may lie in another page.
    pub(super) fn becomes_rdmsr(&self, at: u64) -> bool {
        let Ok(index) = usize::try_from(at) else {
            return false;
        };
        let first = index.checked_sub(1).and_then(|at| self.before.get(at));
        let is_first = at.is_multiple_of(PAGE) || first == Some(&RDPMC[0]);
        let now = self.memory.read_obj::<u8>(GuestAddress(at)).ok();
        is_first && self.before.get(index) == Some(&RDPMC[1]) && now == Some(RDMSR[1])
    }

    /// Whether the byte is one of a doorbell that was put in the place of the begin
    /// of an entry.
    pub(super) fn becomes_bell(&self, at: u64) -> bool {
        (at.saturating_sub(2)..=at).any(|start| {
            let Ok(index) = usize::try_from(start) else {
                return false;
            };
            let before = self
                .before
                .get(index..)
                .and_then(|bytes| bytes.first_chunk());
            let now: Option<[u8; 3]> = self.memory.read_obj(GuestAddress(start)).ok();
            now == Some(BELL) && before.is_some_and(|before| BEGINNINGS.contains(before))
        })
    }
}
