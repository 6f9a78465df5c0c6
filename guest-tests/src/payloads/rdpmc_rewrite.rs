//! RDPMC served by rewriting its sites to RDMSR at the first counter enable.
//! guest-contract §5.4 (a1), §5.5, §1.4 (RDPMC index); rules G-502, G-503.
//!
//! Two sites have the shapes of kernel text, `0F 33 48 C1 E2 20` with and without
//! a two-byte NOP in between. The same bytes also lie in a page that may not be
//! executed and inside a longer instruction: neither may change.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "page tables, and instructions at known bytes")]

use core::arch::asm;

use guest_tests::check::Report;
use guest_tests::cpu::{self, Gp, rdmsr, rdmsr_checked, wrmsr};
use guest_tests::paging;
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::{check, payload, println};

payload!(main);

/// Both shapes as data: nobody executes them.
static DATA: [u8; 16] = *b"\x0f\x33\x48\xc1\xe2\x20\x90\x0f\x33\x66\x90\x48\xc1\xe2\x20\xc3";

/// A way to read a counter by RDPMC.
type Reader = fn(u32) -> Result<u64, Gp>;
/// The two sites.
const READERS: [(&str, Reader); 2] = [
    ("plain", cpu::rdpmc_checked),
    ("with NOP", cpu::rdpmc_nop_checked),
];

fn main(report: &mut Report) {
    let Some(leaf) = Leaf0A::with_global_registers(report) else {
        return;
    };
    check!(
        report,
        "G-502",
        paging::data_not_executable(),
        true,
        "EFER.NXE can be set"
    );
    // Inverted: a scan that is too wide would change a plain copy as well.
    let inverted = data().map(|byte| !byte);
    let same = immediate().map(|byte| !byte) == inverted[..6];
    check!(
        report,
        "self",
        same,
        true,
        "the decoys are equal before the scan"
    );

    first_enable();
    values(report, leaf);
    live(report);
    invalid(report, leaf);
    real_rdmsr(report);
    decoys(report, inverted);
}

/// The decoy data, as it is in memory.
fn data() -> [u8; 16] {
    // SAFETY: a valid static; volatile, because the VMM may change it behind our back.
    unsafe { (&raw const DATA).read_volatile() }
}

/// An immediate operand with the bytes of the first shape, also unaligned.
#[inline(never)]
fn immediate() -> [u8; 6] {
    let value: u64;
    // SAFETY: one move of a constant.
    unsafe {
        asm!(".byte 0x48, 0xb8, 0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20, 0, 0", out("rax") value,
             options(nomem, nostack, preserves_flags));
    }
    let [a, b, c, d, e, f, ..] = value.to_le_bytes();
    [a, b, c, d, e, f]
}

/// Enables a counter, the moment of the scan, and stops it.
fn first_enable() {
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    wrmsr(pmu::EVENT_SELECT, pmu::CYCLES | pmu::EN);
    wrmsr(pmu::FIXED_CONTROL, pmu::FIXED1_ON);
    wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0 | pmu::FIXED1);
    wrmsr(pmu::GLOBAL_CONTROL, 0);
}

/// Each counter reads as what was written to it, at both sites.
fn values(report: &mut Report, leaf: Leaf0A) {
    for (site, read) in READERS {
        for i in 0..leaf.gp {
            let value = 0x1234_5678_9a00 + u64::from(i);
            wrmsr(pmu::FULL_PMC + i, value);
            check!(report, "G-503", read(i), Ok(value), "RDPMC {site}: GP{i}");
        }
        for i in 0..leaf.fixed {
            let value = 0x4321_8765_a900 + u64::from(i);
            wrmsr(pmu::FIXED + i, value);
            check!(
                report,
                "G-503",
                read(pmu::RDPMC_FIXED | i),
                Ok(value),
                "RDPMC {site}: fixed {i}"
            );
        }
    }
}

/// RDPMC of a running counter lies between two RDMSRs, and stands still after it.
fn live(report: &mut Report) {
    wrmsr(pmu::FULL_PMC, 0);
    wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0);
    let moved = pmu::spin_until(|| rdmsr(pmu::FULL_PMC) != 0);
    check!(report, "s1.4", moved, true, "GP0 moves");
    for (site, read) in READERS {
        let before = rdmsr(pmu::FULL_PMC);
        let value = read(0).unwrap_or(0);
        let after = rdmsr(pmu::FULL_PMC);
        let between = (before..=after).contains(&value);
        check!(
            report,
            "G-503",
            between,
            true,
            "RDPMC {site} live: {before:#x} <= {value:#x} <= {after:#x}"
        );
    }
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    let stopped = rdmsr_checked(pmu::FULL_PMC);
    for (site, read) in READERS {
        pmu::spin_for(20_000);
        check!(
            report,
            "G-103",
            read(0),
            stopped,
            "RDPMC {site} of the stopped GP0"
        );
    }
}

/// What is no counter is #GP, as for RDPMC.
fn invalid(report: &mut Report, leaf: Leaf0A) {
    let indices = [
        leaf.gp,
        0xf,
        0x2000_0000,
        pmu::RDPMC_FIXED | leaf.fixed,
        pmu::RDPMC_FIXED | 0xf,
        1 << 31,
    ];
    for (site, read) in READERS {
        for index in indices {
            check!(
                report,
                "G-503",
                read(index),
                Err(Gp),
                "RDPMC {site}: index {index:#x}"
            );
        }
    }
}

/// A real RDMSR of the same indices is not a counter read.
fn real_rdmsr(report: &mut Report) {
    for (msr, expected) in [
        (0, Ok(0)),
        (1, Ok(0)),
        (2, Err(Gp)),
        (pmu::RDPMC_FIXED, Err(Gp)),
    ] {
        check!(
            report,
            "G-503",
            rdmsr_checked(msr),
            expected,
            "a real RDMSR of {msr:#x}"
        );
    }
}

/// Data and operands are as they were; the opcode bytes of the sites are shown.
fn decoys(report: &mut Report, inverted: [u8; 16]) {
    let expected = inverted.map(|byte| !byte);
    check!(
        report,
        "G-502",
        data(),
        expected,
        "the bytes in a page that is not executable"
    );
    check!(
        report,
        "G-502",
        immediate()[..],
        expected[..6],
        "the bytes inside an instruction"
    );
    println!(
        "opcode bytes at the sites: {:x?} (hex; 32 = rewritten)",
        cpu::rdpmc_opcodes()
    );
}
