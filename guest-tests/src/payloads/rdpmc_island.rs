//! Executable memory in reach of the kernel's text that is none of it: constants of a
//! filter that a program has had the kernel compile. Decoded from within, they hold a
//! reader of counters; none of their bytes may change.
//! guest-contract §5.5; rule G-502.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "constants at known bytes")]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{self, wrmsr};
use guest_tests::paging::{self, Island};
use guest_tests::{check, payload};

payload!(main);

/// `xor eax, imm32`, as often as makes every other way to decode them self-consistent;
/// the last two immediates hold `rdpmc; jmp` over an opcode to `shl rdx, 32`.
const FILTER: [u8; 176] = {
    let mut code = [0x90; 176];
    let mut at = 0;
    while at < 160 {
        code[at] = 0x35;
        code[at + 4] = 0xa8;
        at += 5;
    }
    let last: [u8; 11] = [
        0x35, 0x90, 0x0f, 0x33, 0xeb, 0x35, 0x48, 0xc1, 0xe2, 0x20, 0xc3,
    ];
    let mut n = 0;
    while n < last.len() {
        code[160 + n] = last[n];
        n += 1;
    }
    code
};

static ISLAND: Island = Island::new(FILTER);

// The same constants in the kernel's own text.
core::arch::global_asm!(
    "constants:",
    ".rept 32",
    ".byte 0x35, 0x90, 0x90, 0x90, 0xa8",
    ".endr",
    ".byte 0x35, 0x90, 0x0f, 0x33, 0xeb",
    ".byte 0x35, 0x48, 0xc1, 0xe2, 0x20",
    "ret",
    "constants_end:",
);

unsafe extern "C" {
    static constants: u8;
    static constants_end: u8;
}

/// The constants that look like a reader, as they are now.
fn last_constants() -> [u8; 11] {
    let end = &raw const constants_end;
    let last = end.wrapping_sub(11).cast::<[u8; 11]>();
    // SAFETY: code is mapped readable; volatile, because the VMM may change it.
    unsafe { last.read_volatile() }
}

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    let mapped = paging::data_not_executable() && ISLAND.raise();
    check!(
        report,
        "self",
        mapped,
        true,
        "an executable page between data"
    );
    counters.stop();
    // A driver's test of a counter, as Linux makes it.
    wrmsr(counters.counter(0), 0xffff);
    wrmsr(counters.counter(0), 0x1234);
    let read = cpu::rdpmc_checked(0);
    check!(report, "G-503", read, Ok(0x1234), "the kernel's own reader");
    check!(report, "G-502", ISLAND.bytes(), FILTER, "the filter");
    let begins = (&raw const constants).addr() < (&raw const constants_end).addr();
    check!(report, "self", begins, true, "constants in the text");
    let own = last_constants();
    check!(
        report,
        "G-502",
        own[..],
        FILTER[160..171],
        "the kernel's own constants"
    );
}
