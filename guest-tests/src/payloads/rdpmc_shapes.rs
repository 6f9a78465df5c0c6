//! Readers in shapes that no scan knows, behind a #GP handler that is not Linux's: the
//! doorbell serves each, and every other fault reaches the handler.
//! guest-contract §5.6; rules G-506 and G-507. Needs a host whose RDPMC faults.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "readers at known bytes")]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{self, Gp, wrmsr};
use guest_tests::{apic, check, paging, payload, pmu, trap, user};

payload!(main);

core::arch::global_asm!(
    // Both halves go to the stack, and a function that is called later joins them.
    "spilled_rdpmc:",
    "mov ecx, edi",
    "sub rsp, 24",
    "3: rdpmc",
    "mov [rsp], eax",
    "mov [rsp + 8], edx",
    "xor eax, eax",
    "xor edx, edx",
    "call 6f",
    "5: add rsp, 24",
    "ret",
    "4: mov rax, -1",
    "jmp 5b",
    "6: mov eax, [rsp + 8]",
    "mov edx, [rsp + 16]",
    "shl rdx, 32",
    "or rax, rdx",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 3b, 4b",
    ".popsection",
    // Both halves go to other registers, and a call lies before they are joined.
    "moved_rdpmc:",
    "mov ecx, edi",
    "3: rdpmc",
    "mov r8d, edx",
    "mov r9d, eax",
    "call 6f",
    "mov rax, r8",
    "shl rax, 32",
    "add rax, r9",
    "5: ret",
    "4: mov rax, -1",
    "jmp 5b",
    "6: xor eax, eax",
    "xor edx, edx",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 3b, 4b",
    ".popsection",
    // 32-bit code. RDI: the counter; RSI, RDX: selectors of 32-bit and 64-bit code.
    "narrow_rdpmc:",
    "mov ecx, edi",
    "mov edi, edx",
    "push rsi",
    "lea rax, [rip + 2f]",
    "push rax",
    ".byte 0x48, 0xcb", // RETF of 64 bits
    ".code32",
    "2:",
    "3: rdpmc",
    "push edx",
    "push eax",
    "pop eax",
    "pop edx",
    "5: push edi",
    "call 6f",
    "6: .byte 0x83, 0x04, 0x24, 7f - 6b", // ADD dword ptr [ESP], imm8
    "retf",
    "4: mov eax, -1",
    "mov edx, -1",
    "jmp 5b",
    ".code64",
    "7: mov eax, eax",
    "shl rdx, 32",
    "or rax, rdx",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 3b, 4b",
    ".popsection",
);

unsafe extern "C" {
    safe fn spilled_rdpmc(index: u64) -> u64;
    safe fn moved_rdpmc(index: u64) -> u64;
    safe fn narrow_rdpmc(index: u64, code_32: u64, code_64: u64) -> u64;
}

/// Selectors of code.
const KERNEL_64: u64 = 0x08;
const KERNEL_32: u64 = 0x38;
const USER_64: u64 = 0x33;
const USER_32: u64 = 0x43;

extern "C" fn spilled(index: u64) -> u64 {
    spilled_rdpmc(index)
}

extern "C" fn moved(index: u64) -> u64 {
    moved_rdpmc(index)
}

extern "C" fn narrow(index: u64) -> u64 {
    narrow_rdpmc(index, KERNEL_32, KERNEL_64)
}

extern "C" fn narrow_of_user(index: u64) -> u64 {
    narrow_rdpmc(index, USER_32, USER_64)
}

/// What the handler of an interrupt reads, and then what it has read.
static HANDLERS: AtomicU64 = AtomicU64::new(0);

fn handler() {
    let value = spilled_rdpmc(HANDLERS.load(Ordering::Relaxed));
    HANDLERS.store(value, Ordering::Relaxed);
}

/// Reads the counter in the handler of an interrupt; `None` if none comes.
fn in_handler(index: u64) -> Option<u64> {
    HANDLERS.store(index, Ordering::Relaxed);
    let before = trap::interrupts();
    apic::send_self(trap::PMI_VECTOR);
    let came = pmu::spin_until(|| {
        cpu::interrupts_for(1);
        trap::interrupts() != before
    });
    came.then(|| HANDLERS.load(Ordering::Relaxed))
}

/// A way to read a counter; all bits are set if it faults.
type Reader = extern "C" fn(u64) -> u64;

const FAULT: u64 = u64::MAX;
const VALUE: u64 = 0xffff_ffff_8765_4321;
/// An MSR that no CPU has.
const NO_MSR: u32 = 0x1234_5678;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    let before = spilled_rdpmc(0);
    check!(report, "self", before, FAULT, "a host whose RDPMC faults");
    apic::enable();
    trap::set_interrupt_hook(handler);
    counters.stop();
    // Intel takes the low half, and its sign for the rest.
    wrmsr(counters.counter(0), VALUE & ((1 << counters.width) - 1));
    let value = counters.value(0);
    check!(report, "self", value >> 32 != 0, true, "an upper half");
    for (index, due) in [(15, FAULT), (0, value), (15, FAULT), (0, value)] {
        let read = in_handler(index);
        check!(report, "G-506", read, Some(due), "{index} in a handler");
    }
    // Before the kernel executes them: then they are RDMSR.
    let mapped = paging::open_to_ring_3();
    check!(report, "self", mapped, true, "EFER.NXE can be set");
    for permitted in [true, false, true] {
        cpu::permit_rdpmc(permitted);
        let due = if permitted { value } else { FAULT };
        for (name, read) in [("moved", moved as Reader), ("32-bit", narrow_of_user)] {
            let got = user::call(read, 0);
            check!(report, "G-506", got, due, "{name} in ring 3: {permitted}");
        }
    }
    // The first by the doorbell; from the second on they are rewritten.
    for _ in 0..3 {
        for (name, read) in [
            ("spilled", spilled as Reader),
            ("moved", moved),
            ("32-bit", narrow),
        ] {
            check!(report, "G-506", read(0), value, "{name}");
            check!(report, "G-506", read(15), FAULT, "{name}: no such counter");
        }
        let other = cpu::rdmsr_checked(NO_MSR);
        check!(report, "G-507", other, Err(Gp), "another fault");
    }
    wrmsr(counters.counter(0), 0);
}
