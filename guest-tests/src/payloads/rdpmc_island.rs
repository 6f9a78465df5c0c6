//! Executable memory in reach of the kernel's text that is none of it: constants of a
//! filter that a program has had the kernel compile. Decoded from within, they hold a
//! reader of counters; none of their bytes may change.
//! guest-contract §5.5; rule G-502.
#![no_std]
#![no_main]

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
}
