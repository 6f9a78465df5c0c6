//! A PMI comes as LVTPC says, in xAPIC and in x2APIC mode: NMI, vector, not at all;
//! and delivery leaves LVTPC as the guest wrote it.
//! guest-contract §4.1, §4.3, §8 (0x834); rules G-005, G-402, G-403, G-405.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{Gp, interrupts_for, rdmsr_checked, wrmsr_checked};
use guest_tests::pmi::{self, Handler};
use guest_tests::pmu::{INT, spin_until};
use guest_tests::trap::{self, PMI_VECTOR};
use guest_tests::{apic, check, payload};

payload!(main);

/// Counts to the wrap.
const LEFT: u64 = 200_000;
/// TSC ticks in which a PMI that must not come would come.
const QUIET: u64 = 2_000_000;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable_xapic();
    pmi::install();
    let reset = apic::lvtpc();
    check!(
        report,
        "s8 0x834",
        reset,
        apic::LVT_MASKED,
        "LVTPC at reset"
    );
    let msr = rdmsr_checked(apic::LVTPC_MSR);
    check!(report, "s8 0x834", msr, Err(Gp), "the MSR in xAPIC mode");
    every_mode(report, counters, "xAPIC");
    apic::set_lvtpc(apic::LVT_NMI);
    if !check!(report, "s8 0x834", apic::enable_x2apic(), true, "x2APIC") {
        return;
    }
    let msr = rdmsr_checked(apic::LVTPC_MSR);
    let kept = Ok(u64::from(apic::LVT_NMI));
    check!(report, "s8 0x834", msr, kept, "the MSR in x2APIC mode");
    let wrote = wrmsr_checked(apic::LVTPC_MSR, 1 << 32);
    check!(
        report,
        "s8 0x834",
        wrote,
        Err(Gp),
        "WRMSR of a reserved bit"
    );
    every_mode(report, counters, "x2APIC");
}

fn every_mode(report: &mut Report, counters: Counters, apic: &str) {
    let pmis = || (trap::nmis(), trap::interrupts());
    let vector = u32::from(PMI_VECTOR);
    for (lvtpc, nmis, interrupts) in [
        (apic::LVT_NMI, 1, 0),
        (vector, 0, 1),
        (apic::LVT_NMI | apic::LVT_MASKED, 0, 0),
        (vector | apic::LVT_MASKED, 0, 0),
    ] {
        pmi::set_handler(Handler::Nothing);
        let before = pmis();
        apic::set_lvtpc(lvtpc);
        counters.start(0, LEFT, INT);
        let wrapped = spin_until(|| counters.overflowed() == 1);
        check!(
            report,
            "s1.4",
            wrapped,
            true,
            "{apic}, {lvtpc:#x}: it wraps"
        );
        pmi::settle(QUIET);
        let came = (pmis().0 - before.0, pmis().1 - before.1);
        let due = (nmis, interrupts);
        check!(
            report,
            "G-403",
            came,
            due,
            "{apic}, {lvtpc:#x}: NMIs, interrupts"
        );
        let kept = apic::lvtpc();
        check!(report, "G-005", kept, lvtpc, "{apic}: LVTPC after delivery");
        if lvtpc & apic::LVT_MASKED != 0 {
            unmasked(report, counters, apic, lvtpc);
        }
        counters.clear();
    }
}

/// What overflowed while LVTPC was masked is gone; unmasking brings nothing, the
/// next overflow does.
fn unmasked(report: &mut Report, counters: Counters, apic: &str, lvtpc: u32) {
    pmi::set_handler(Handler::Acknowledge);
    pmi::forget();
    let pmis = || trap::nmis() + trap::interrupts();
    let before = pmis();
    apic::set_lvtpc(lvtpc & !apic::LVT_MASKED);
    pmi::settle(QUIET);
    let came = pmis() - before;
    check!(
        report,
        "G-405",
        came,
        0,
        "{apic}, {lvtpc:#x}: PMIs by unmasking"
    );
    counters.load(1, LEFT, INT);
    counters.run(0b11);
    spin_until(|| {
        interrupts_for(100);
        pmis() != before
    });
    pmi::settle(QUIET);
    let came = pmis() - before;
    check!(
        report,
        "G-402",
        came,
        1,
        "{apic}, {lvtpc:#x}: PMIs afterwards"
    );
    let seen = pmi::seen() & 1;
    check!(
        report,
        "G-405",
        seen,
        1,
        "{apic}: it tells of the masked one"
    );
}
