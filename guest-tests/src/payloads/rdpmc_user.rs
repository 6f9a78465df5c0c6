//! RDPMC in ring 3: right where CR4.PCE permits it, #GP where it does not, and any
//! other fault of ring 3 is the guest's own.
//! guest-contract §5.6, §5.7; rules G-506 (CPL 3), G-507, G-508.
//!
//! On a host whose RDPMC faults, each comes by the doorbell in the #GP entry. On one
//! that answers a silent 0, the write that starts a counter has CR4.PCE taken away,
//! so that it faults as well.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "RDPMC in ring 3, at known bytes")]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{self, permit_rdpmc};
use guest_tests::pmu::spin_until;
use guest_tests::{check, doorbell, paging, payload, user};

payload!(main);

core::arch::global_asm!(
    ".globl ring3_rdpmc, ring3_rdmsr, ring3_level",
    "ring3_rdpmc:",
    "mov ecx, edi",
    "3: rdpmc",
    "mov r8d, eax",
    "mov rax, rdx",
    "shl rax, 32",
    "or rax, r8",
    "ret",
    "4: mov rax, -1",
    "ret",
    "ring3_rdmsr:",
    "mov ecx, edi",
    "5: rdmsr",
    "mov eax, eax",
    "ret",
    "ring3_level:",
    "mov eax, cs",
    "and eax, 3",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 3b, 4b",
    ".quad 5b, 4b",
    ".popsection",
);

unsafe extern "C" {
    safe fn ring3_rdpmc(index: u64) -> u64;
    safe fn ring3_rdmsr(index: u64) -> u64;
    safe fn ring3_level(_: u64) -> u64;
}

/// What the fix-ups return.
const FAULT: u64 = u64::MAX;
/// Far from a wrap, in a counter of 40 bits and more.
const LEFT: u64 = 1 << 31;

extern "C" fn rdpmc(index: u64) -> u64 {
    ring3_rdpmc(index)
}

extern "C" fn rdmsr(index: u64) -> u64 {
    ring3_rdmsr(index)
}

extern "C" fn level(_: u64) -> u64 {
    ring3_level(0)
}

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    let mapped = paging::open_to_ring_3();
    check!(report, "self", mapped, true, "EFER.NXE can be set");
    doorbell::install();
    check!(report, "self", user::call(level, 0), 3, "the ring");
    check!(report, "self", user::call(rdmsr, 0), FAULT, "RDMSR before");
    // A kernel has a reader of its own, or it is told that it has no PMU.
    counters.clear();
    check!(report, "s5.6", cpu::rdpmc_checked(0), Ok(0), "the kernel's");
    check!(
        report,
        "G-506",
        doorbell::bytes(),
        doorbell::RUNG,
        "the doorbell"
    );
    forbidden(report, counters);
    permitted(report, counters);
    forbidden(report, counters);
    // CR4 is written, then a counter started: as at a context switch.
    permitted(report, counters);
    counters.clear();
}

/// Without CR4.PCE.
fn forbidden(report: &mut Report, counters: Counters) {
    permit_rdpmc(false);
    counters.start(0, LEFT, 0);
    let got = user::call(rdpmc, 0);
    check!(report, "G-506", got, FAULT, "RDPMC without CR4.PCE");
    others_fault(report, counters);
}

/// With CR4.PCE: running, and stopped.
fn permitted(report: &mut Report, counters: Counters) {
    permit_rdpmc(true);
    counters.start(0, LEFT, 0);
    let moves = spin_until(|| {
        let before = counters.value(0);
        let got = user::call(rdpmc, 0);
        let after = counters.value(0);
        let is_between = (before..=after).contains(&got);
        check!(
            report,
            "G-506",
            is_between,
            true,
            "{before:#x} <= {got:#x} <= {after:#x}"
        );
        got < after || !is_between
    });
    check!(report, "G-506", moves, true, "it moves");
    counters.stop();
    for i in 0..counters.number {
        let due = counters.value(i);
        let got = user::call(rdpmc, u64::from(i));
        check!(
            report,
            "G-103",
            got,
            due,
            "RDPMC of the stopped counter {i}"
        );
    }
    others_fault(report, counters);
}

/// What no CR4.PCE permits.
fn others_fault(report: &mut Report, counters: Counters) {
    let beyond = u64::from(counters.number);
    for index in [beyond, 15, 0x2000_0000, 0x4000_000f, 0x8000_0000] {
        let got = user::call(rdpmc, index);
        check!(report, "G-507", got, FAULT, "RDPMC of {index:#x}");
    }
    check!(
        report,
        "G-507",
        user::call(rdmsr, 0),
        FAULT,
        "RDMSR in ring 3"
    );
}
