//! Tests of guests outside of long mode: 32-bit gates, frames and page tables.

use vm_memory::{Bytes, GuestAddress};

use super::ReaderService;
use super::doorbell::Caught;
use super::entry_hook::EntryHook;
use super::pattern::{RDMSR, RDPMC};
use super::rewriter::Rewriter;
use super::user_access::UserAccess::Faults;
use super::virt::Virtual;
use crate::kvm::paging::tests::Guest;
use crate::kvm::{Controls, Paging, Registers};

const FLAT: Paging = Paging { cr3: 0, levels: 0 };
const IDT: u64 = 0x40_0000;
const HANDLER: u64 = 0x20_1000;
/// `push eax; push edi; mov edi, esp; call`.
const TEXT: [u8; 9] = [0x50, 0x57, 0x89, 0xe7, 0xe8, 1, 2, 3, 0];
const BELL: u64 = HANDLER + 3;
const IRETD: u64 = HANDLER + 0x40;
const KERNEL: u64 = 0x20_0100;
const USER: u64 = 0x60_0ffe;
/// A multiple of 4 alone.
const STACK: u64 = 0x40_1f04;
const PCE: u64 = 1 << 8;
const VALUE: u64 = 0x1234_89ab_cdef;

fn guest() -> Guest {
    let guest = Guest::new();
    let gate = HANDLER & 0xffff | 0x38 << 16 | 0x8e00 << 32 | (HANDLER >> 16) << 48;
    for (bytes, at) in [
        (&gate.to_le_bytes()[..], IDT + 13 * 8),
        (&TEXT, HANDLER),
        (&[0xcf], IRETD),
        (&RDPMC, KERNEL),
        (&RDPMC, USER),
    ] {
        guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }
    guest
}

const fn flat(guest: &Guest) -> Virtual<'_> {
    Virtual {
        memory: &guest.memory,
        paging: FLAT,
    }
}

fn hook(guest: &Guest) -> Option<EntryHook> {
    EntryHook::find(flat(guest), IDT, |_, _| true)
}

fn push(guest: &Guest, frame: &[u32]) {
    for (slot, at) in frame.iter().zip((STACK..).step_by(4)) {
        guest.memory.write_obj(*slot, GuestAddress(at)).unwrap();
    }
}

/// What the guest goes on with after it rang with this frame on its stack.
fn served(guest: &Guest, paging: Paging, cr4: u64, frame: &[u32]) -> Option<Registers> {
    push(guest, frame);
    let hook = hook(guest).unwrap();
    let rewriter = Rewriter::new(guest.memory.clone(), Faults);
    let registers = Registers {
        rax: 1,
        rcx: 0,
        rdx: 2,
        rsp: STACK,
        rip: BELL + 2,
        rflags: 2,
    };
    let controls = Controls {
        paging,
        idt: IDT,
        cr4,
    };
    let seen = Virtual {
        memory: &guest.memory,
        paging,
    };
    Caught::of(seen, controls, &hook, registers)?.serve(&rewriter, |_| Some(VALUE))
}

#[test]
fn the_gate_of_a_32_bit_handler_leads_to_the_doorbell() {
    let guest = guest();
    let hook = hook(&guest).unwrap();
    assert_eq!((hook.address(), hook.port()), (BELL, 0xe8));
    assert_eq!((hook.iret, hook.selector), (Some(IRETD), 0x38));
    let before = flat(&guest).word(IDT + 13 * 8).unwrap();
    hook.install(flat(&guest)).unwrap();
    assert!(hook.is_in_place(flat(&guest)));
    assert_eq!(flat(&guest).word(IDT + 13 * 8), Some(before + 3));
    assert_eq!(hook.forward(0x46), (HANDLER, 0x46));
}

#[test]
fn other_gates_and_handlers_get_none() {
    // A gate of 16 bits, a task gate, none.
    for kind in [0x86_u8, 0x85, 0x0e] {
        let guest = guest();
        let at = GuestAddress(IDT + 13 * 8 + 5);
        guest.memory.write_obj(kind, at).unwrap();
        assert_eq!(hook(&guest), None, "{kind:#x}");
    }
    let guest = guest();
    let code = [0xf3_u8, 0x0f, 0x1e, 0xfb, 0x50, 0x89, 0xe7, 0xe8];
    let at = GuestAddress(HANDLER);
    guest.memory.write_slice(&code, at).unwrap();
    assert_eq!(hook(&guest), None, "IBT takes no other entry");
}

/// G-506: at the same level the CPU pushes no stack.
#[test]
fn a_kernel_goes_on_behind_its_rdpmc() {
    let guest = guest();
    let frame = [0, 0x20_0100, 0x38, 0x1_0046, 0xdead, 0xbeef];
    let after = served(&guest, FLAT, 0, &frame).unwrap();
    let expected = Registers {
        rax: 0x89ab_cdef,
        rcx: 0,
        rdx: 0x1234,
        rsp: STACK + 16,
        rip: KERNEL + 2,
        rflags: 0x46,
    };
    assert_eq!(after, expected);
    assert_eq!(flat(&guest).code(KERNEL), Some(RDMSR), "rewritten");
}

/// G-506: from ring 3 it does.
#[test]
fn a_program_goes_on_by_iretd_where_cr4_lets_it() {
    let guest = guest();
    let frame = [0, 0x60_0ffe, 0x43, 0x1_0246, 0x7000, 0x2b];
    assert_eq!(served(&guest, FLAT, 0, &frame), None, "without CR4.PCE");
    let after = served(&guest, FLAT, PCE, &frame).unwrap();
    assert_eq!((after.rip, after.rsp), (IRETD, STACK + 4));
    assert_eq!((after.rax, after.rdx), (0x89ab_cdef, 0x1234));
    let left = flat(&guest).slots(STACK);
    assert_eq!(left, Some([0, USER + 2, 0x43, 0x246, 0x7000, 0x2b]));
    assert_eq!(flat(&guest).code(USER), Some(RDPMC));
}

/// G-507.
#[test]
fn other_faults_are_the_handlers() {
    for frame in [
        [8, 0x20_0100, 0x38, 2, 0, 0],             // an error code
        [0, 0x20_0101, 0x38, 2, 0, 0],             // another instruction
        [0, 0x20_0100, 0x3c, 2, 0, 0],             // code of the LDT
        [0, 0x60_0ffe, 0x43, 2, 0x7000, 0x0f],     // a stack of the LDT
        [0, 0x60_0ffe, 0x43, 1 << 17, 0x70, 0x2b], // virtual-8086 mode
        [0, 0xffff_fffe, 0x38, 2, 0, 0],           // no memory
    ] {
        let guest = guest();
        assert_eq!(served(&guest, FLAT, PCE, &frame), None, "{frame:x?}");
        assert_eq!(flat(&guest).code(KERNEL), Some(RDPMC));
    }
}

/// KVM takes no EIP of more than 32 bits.
#[test]
fn nothing_goes_on_behind_the_end_of_the_address_space() {
    let guest = guest();
    let paging = Paging {
        cr3: 0x10_0000,
        levels: 2,
    };
    for (entry, page) in [(0, 0_u32), (1, 0x40_0000), (0x3ff, 0x40_0000)] {
        let at = GuestAddress(0x10_0000 + entry * 4);
        guest.memory.write_obj(page | 0x83, at).unwrap();
    }
    let last = GuestAddress(0x7f_fffe);
    guest.memory.write_obj(RDPMC, last).unwrap();
    let near = [0, 0x20_0100, 0x38, 2, 0, 0];
    assert!(served(&guest, paging, 0, &near).is_some(), "the control");
    let end = [0, 0xffff_fffe, 0x38, 2, 0, 0];
    assert_eq!(served(&guest, paging, 0, &end), None);
}

/// What looks like a reader of 64 bits may be anything in other code.
#[test]
fn text_of_32_bits_is_not_scanned() {
    const READER: [u8; 8] = [0x0f, 0x33, 0x66, 0x90, 0x48, 0xc1, 0xe2, 0x20];
    let guest = guest();
    let at = GuestAddress(KERNEL);
    guest.memory.write_slice(&READER, at).unwrap();
    let rewriter = Rewriter::without_pace(guest.memory.clone(), Faults);
    let no_idt = 0x7f_0000;
    let verdict = rewriter.cover(FLAT, KERNEL, no_idt);
    assert_eq!(verdict, ReaderService::Served, "its RDPMC faults aloud");
    assert_eq!(flat(&guest).code(KERNEL), Some(READER));
    let rewriter = Rewriter::without_pace(guest.memory.clone(), Faults);
    assert_eq!(rewriter.cover(FLAT, KERNEL, IDT), ReaderService::Served);
    assert!(hook(&guest).is_none(), "it has its doorbell");
    assert_eq!(flat(&guest).code(KERNEL), Some(READER));
}
