//! A kernel of 32 bits outside of long mode, without paging, with 32-bit paging and with
//! PAE: the doorbell serves its RDPMC and that of its ring 3, and every other fault reaches
//! its #GP handler.
//! guest-contract §5.6; rules G-506 and G-507. Needs a host whose RDPMC faults.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "a way out of long mode and back")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::wrmsr;
use guest_tests::{check, payload};

payload!(main);

/// What the 32-bit code is given, and what it has read: EDX:EAX, all bits set after a fault.
#[repr(C, align(8))]
struct Stay {
    cr4: u32,
    cr3: u32,
    /// CR0.PG, or 0.
    paging: u32,
    /// The counter, and what it is set to.
    msr: u32,
    value: u64,
    /// Counter 0, one that there is not, the two again, an MSR that there is not, counter 0
    /// in ring 3.
    read: [u64; 6],
}

core::arch::global_asm!(
    // stay(RDI: *mut Stay): leaves long mode, does what is to be done there, and comes back.
    "stay:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "pushfq",
    "cli",
    "mov [rip + stay_rsp], rsp",
    "sgdt [rip + stay_gdt]",
    "sidt [rip + stay_idt]",
    "mov rax, cr3",
    "mov [rip + stay_cr3], eax",
    "mov rax, cr4",
    "mov [rip + stay_cr4], eax",
    "mov ebp, edi",
    "lgdt [rip + narrow_gdt_pointer]",
    "push 0x38",
    "lea rax, [rip + 2f]",
    "push rax",
    ".byte 0x48, 0xcb", // RETF of 64 bits
    ".code32",
    "2: mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "and eax, 0xfffffeff", // EFER.LME
    "wrmsr",
    "mov eax, [ebp]",
    "mov cr4, eax",
    "mov eax, [ebp + 4]",
    "mov cr3, eax",
    "mov eax, cr0",
    "or eax, [ebp + 8]",
    "mov cr0, eax",
    "lidt [narrow_idt_pointer]",
    "and byte ptr [narrow_tss + 5], 0xfd", // not busy
    "mov eax, 0x18",
    "ltr ax",
    // As a driver that comes up.
    "mov ecx, [ebp + 12]",
    "rdmsr",
    "xor eax, 0xffff",
    "wrmsr",
    "mov eax, [ebp + 16]",
    "mov edx, [ebp + 20]",
    "wrmsr",
    "lea edi, [ebp + 24]",
    "cld",
    "xor ebx, ebx",
    "3: mov ecx, ebx",
    "call narrow_read",
    "stosd",
    "mov eax, edx",
    "stosd",
    "xor ebx, 15",
    "lea eax, [ebp + 56]",
    "cmp edi, eax",
    "jne 3b",
    "mov ecx, 0x12345678",
    "call narrow_rdmsr",
    "stosd",
    "mov eax, edx",
    "stosd",
    // To ring 3, and back by the fault of HLT.
    "mov [narrow_esp], esp",
    "xor ecx, ecx",
    "push 0x2b",
    "mov eax, offset narrow_user_top",
    "push eax",
    "pushfd",
    "push 0x43",
    "mov eax, offset narrow_user",
    "push eax",
    "iretd",
    "narrow_left: mov ecx, 0x10",
    "mov ds, ecx",
    "mov es, ecx",
    "mov esp, [narrow_esp]",
    "stosd",
    "mov eax, edx",
    "stosd",
    // Back.
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov eax, [stay_cr4]",
    "mov cr4, eax",
    "mov eax, [stay_cr3]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "push 0x08",
    "mov eax, offset narrow_long",
    "push eax",
    "retf",
    // Readers, and where their faults lead.
    "narrow_read: rdpmc",
    "ret",
    "narrow_rdmsr: rdmsr",
    "ret",
    "narrow_user: rdpmc",
    "narrow_exit: hlt",
    "narrow_fault: mov eax, -1",
    "mov edx, eax",
    "ret",
    "narrow_user_fault: mov eax, -1",
    "mov edx, eax",
    "jmp narrow_exit",
    // The handler, which has the program's DS.
    "narrow_gp: push eax",
    "push edi",
    "mov edi, esp", // with what follows an OUT: 89 E7 E8
    "call 6f",
    "pop edi",
    "pop eax",
    "add esp, 4",
    "iretd",
    "6: mov eax, ss:[edi + 12]",
    "cmp eax, offset narrow_read",
    "je 7f",
    "cmp eax, offset narrow_rdmsr",
    "je 7f",
    "cmp eax, offset narrow_user",
    "je 8f",
    "cmp eax, offset narrow_exit",
    "jne 9f",
    "pop eax",
    "pop edi",
    "pop eax",
    "jmp narrow_left",
    "7: mov dword ptr ss:[edi + 12], offset narrow_fault",
    "ret",
    "8: mov dword ptr ss:[edi + 12], offset narrow_user_fault",
    "9: ret",
    ".code64",
    "narrow_long: lgdt [rip + stay_gdt]",
    "lidt [rip + stay_idt]",
    "mov rax, [rip + stay_gdt + 2]",
    "and byte ptr [rax + 0x1d], 0xfd", // the TSS is not busy
    "mov eax, 0x18",
    "ltr ax",
    "mov rsp, [rip + stay_rsp]",
    "popfq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".pushsection .data.stay, \"aw\"",
    ".balign 16",
    "narrow_gdt: .quad 0",
    ".quad 0x00af9b000000ffff",             // 0x08: 64-bit code
    ".quad 0x00cf93000000ffff",             // 0x10: data
    "narrow_tss: .quad 0x0000890000000067", // 0x18: the TSS; `main` fills the base in
    ".quad 0",
    ".quad 0x00cff3000000ffff", // 0x28: data of ring 3
    ".quad 0",
    ".quad 0x00cf9b000000ffff", // 0x38: 32-bit code
    ".quad 0x00cffb000000ffff", // 0x40: 32-bit code of ring 3
    "narrow_gdt_end:",
    ".balign 16",
    "narrow_idt: .skip 14 * 8", // of which `main` fills the last
    "narrow_idt_end:",
    ".balign 4",
    "narrow_tss_body: .long 0, narrow_stack_top, 0x10",
    ".skip 0x68 - 12",
    "narrow_gdt_pointer: .word narrow_gdt_end - narrow_gdt - 1",
    ".quad narrow_gdt",
    "narrow_idt_pointer: .word narrow_idt_end - narrow_idt - 1",
    ".long narrow_idt",
    "stay_gdt: .skip 10",
    "stay_idt: .skip 10",
    ".balign 8",
    "stay_rsp: .quad 0",
    "stay_cr3: .long 0",
    "stay_cr4: .long 0",
    "narrow_esp: .long 0",
    ".popsection",
    ".pushsection .bss.stay, \"aw\", @nobits",
    ".balign 16",
    ".skip 4096",
    "narrow_stack_top:",
    ".skip 64",
    "narrow_user_top:",
    ".popsection",
);

unsafe extern "C" {
    fn stay(stay: *mut Stay);
    static narrow_gp: u8;
    static narrow_read: [AtomicU8; 2];
    static mut narrow_tss: [u8; 8];
    static narrow_tss_body: u8;
    static mut narrow_idt: [[u8; 8]; 14];
}

/// A page of 32-bit entries, and one of 64-bit ones.
#[repr(C, align(4096))]
struct Narrow([u32; 1024]);
#[repr(C, align(4096))]
struct Wide([u64; 512]);

static mut DIRECTORY: Narrow = Narrow([0; 1024]);
static mut PAE_POINTERS: Wide = Wide([0; 512]);
static mut PAE_DIRECTORY: Wide = Wide([0; 512]);

/// Present, writable, ring 3 may use it, large.
const PAGE: u32 = 0b1000_0111;
const PRESENT: u64 = 1;
const PG: u32 = 1 << 31;
const PSE: u32 = 1 << 4;
const PAE: u32 = 1 << 5;
const PCE: u32 = 1 << 8;

/// The low half of an address: all of a payload lies below 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "linked below 4 GiB")]
fn low(address: usize) -> u32 {
    address as u32
}

/// Maps what there is, one to one, in the tables of both kinds of paging.
fn fill_tables() {
    let directory = (&raw mut DIRECTORY).cast::<u32>();
    for (n, entry) in (0..1024_u32).zip(0..) {
        // SAFETY: a table of ours with 1,024 entries, not in use yet.
        unsafe { directory.wrapping_add(entry).write(n << 22 | PAGE) };
    }
    let pae = (&raw mut PAE_DIRECTORY).cast::<u64>();
    for (n, entry) in (0..512_u64).zip(0..) {
        // SAFETY: the same, with 512.
        unsafe { pae.wrapping_add(entry).write(n << 21 | u64::from(PAGE)) };
    }
    let pointers = (&raw mut PAE_POINTERS).cast::<u64>();
    // SAFETY: the first entry of a table of ours.
    unsafe { pointers.write(pae.addr() as u64 | PRESENT) };
}

/// Fills the addresses into the descriptors, which have them in pieces.
fn fill_descriptors() {
    let [a, b, c, d] = low((&raw const narrow_tss_body).addr()).to_le_bytes();
    let tss = [0x67, 0, a, b, c, 0x89, 0, d];
    // SAFETY: nobody uses the table yet.
    unsafe { (&raw mut narrow_tss).write(tss) };
    let [a, b, c, d] = low((&raw const narrow_gp).addr()).to_le_bytes();
    let gate = [a, b, 0x38, 0, 0, 0x8e, c, d];
    // SAFETY: nobody uses the table yet; it has 14 gates.
    unsafe { (&raw mut narrow_idt).cast::<[u8; 8]>().add(13).write(gate) };
}

fn cr4() -> u32 {
    let cr4: u64;
    // SAFETY: reading CR4 changes nothing.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack)) };
    low(usize::try_from(cr4).unwrap_or(0))
}

const FAULT: u64 = u64::MAX;
const VALUE: u64 = 0xffff_8765_4321;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    fill_descriptors();
    let value = VALUE & ((1 << counters.width) - 1);
    let rest = cr4() & !(PAE | PSE | PCE);
    let (narrow, pae) = (&raw const DIRECTORY, &raw const PAE_POINTERS);
    for (name, paging, bits, cr3) in [
        ("without paging", 0, 0, 0),
        ("with 32-bit paging", PG, PSE, narrow.addr()),
        ("with PAE", PG, PAE, pae.addr()),
    ] {
        for pce in [PCE, 0] {
            // Also those that were used: QEMU marks PAE's first entries as accessed, and these
            // must not be so when they are loaded.
            fill_tables();
            // As text that nobody has changed.
            let reader = &raw const narrow_read;
            // SAFETY: the second byte of an instruction that nobody executes now.
            unsafe { (*reader)[1].store(0x33, Ordering::SeqCst) };
            let mut to = Stay {
                cr4: rest | bits | pce,
                cr3: low(cr3),
                paging,
                msr: counters.counter(0),
                value,
                read: [0; 6],
            };
            // SAFETY: the code comes back to this mode, with the registers that C keeps.
            unsafe { stay(&raw mut to) };
            let of_user = if pce == PCE { value } else { FAULT };
            let due = [value, FAULT, value, FAULT, FAULT, of_user];
            let rules = ["G-506", "G-506", "G-506", "G-506", "G-507", "G-506"];
            for (n, (rule, due)) in rules.into_iter().zip(due).enumerate() {
                let got = to.read.get(n).copied();
                check!(report, rule, got, Some(due), "{n} {name}, PCE {pce:x}");
            }
        }
    }
    wrmsr(counters.counter(0), 0);
}
