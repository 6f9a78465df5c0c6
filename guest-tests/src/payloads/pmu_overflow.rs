//! Overflow, status and the PMI, in the order in which Linux handles them.
//! guest-contract §1.3 (PMI), §1.4 (counting), §4.1, §4.3;
//! rules G-004, G-010, G-104, G-105, G-401, G-402, G-403, G-404.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{inb, interrupts_for, rdmsr, wrmsr};
use guest_tests::pmi::{self, Handler};
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::trap::{self, PMI_VECTOR};
use guest_tests::{apic, check, payload};

payload!(main);

/// Counts from arming to the wrap.
const LEFT: u64 = 200_000;
/// TSC ticks in which a PMI that must not come would come.
const QUIET: u64 = 2_000_000;
/// The port that tells a handler of an NMI's other reasons.
const NMI_REASON: u16 = 0x61;
/// Overflows in a row.
const REPEATS: u32 = 20;

fn main(report: &mut Report) {
    let Some(leaf) = Leaf0A::with_global_registers(report) else {
        return;
    };
    apic::enable();
    pmi::install();
    check!(
        report,
        "s4.1",
        apic::lvtpc() & apic::LVT_MASKED,
        apic::LVT_MASKED,
        "LVTPC masked at reset"
    );

    check!(
        report,
        "G-010",
        inb(NMI_REASON) & 0xc0,
        0,
        "port 0x61, NMI reasons"
    );

    one_nmi(report, leaf);
    fixed_counter(report, leaf);
    masked(report, leaf);
    without_int(report, leaf);
    re_arm(report, leaf);
    once_per_arming(report, leaf);
    fixed_vector(report, leaf);
    many(report, leaf);
}

/// Sets LVTPC, loads GP0 with LEFT counts to go and starts it.
fn arm(leaf: Leaf0A, lvtpc: u32, int: u64) {
    load(leaf, lvtpc, int);
    wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0);
}

/// Stops all, sets LVTPC and loads GP0 with LEFT counts to go.
fn load(leaf: Leaf0A, lvtpc: u32, int: u64) {
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    apic::set_lvtpc(lvtpc);
    pmi::forget();
    wrmsr(pmu::FULL_PMC, leaf.max_count() + 1 - LEFT);
    wrmsr(pmu::EVENT_SELECT, pmu::CYCLES | pmu::EN | int);
}

/// Stops GP0 and clears its status.
fn stop() {
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    wrmsr(pmu::EVENT_SELECT, 0);
    wrmsr(pmu::GLOBAL_OVERFLOW, pmu::GP0);
}

/// So many NMIs have come since there were `before`.
fn nmis(report: &mut Report, rule: &str, before: u32, due: u32, what: &str) {
    check!(report, rule, trap::nmis() - before, due, "{what}");
}

/// The status is that.
fn status(report: &mut Report, rule: &str, due: u64, what: &str) {
    check!(report, rule, rdmsr(pmu::GLOBAL_STATUS), due, "{what}");
}

/// Exactly one more PMI than `before` came, with `status`, acknowledged.
fn one_pmi(report: &mut Report, name: &str, count: fn() -> u32, before: u32, status: u64) {
    pmu::spin_for(QUIET);
    check!(
        report,
        "G-004",
        count() - before,
        1,
        "{name}: PMIs for one overflow"
    );
    check!(
        report,
        "G-404",
        pmi::seen(),
        status,
        "{name}: status seen by the handler"
    );
    check!(
        report,
        "G-104",
        pmi::seen_again(),
        0,
        "{name}: status after 0x390"
    );
    check!(
        report,
        "G-104",
        rdmsr(pmu::GLOBAL_STATUS),
        0,
        "{name}: status at the end"
    );
}

/// The counter shows the wrap and what followed it, not less.
fn wrapped(report: &mut Report, name: &str, msr: u32) {
    let count = rdmsr(msr);
    check!(
        report,
        "s4.4",
        count < 1 << 46,
        true,
        "{name}: counter {count:#x} wrapped"
    );
}

fn one_nmi(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    arm(leaf, apic::LVT_NMI, pmu::INT);
    let came = pmu::spin_until(|| trap::nmis() != before);
    check!(
        report,
        "G-404",
        came,
        true,
        "GP0 with INT: an NMI comes (counter {:#x})",
        rdmsr(pmu::FULL_PMC)
    );
    one_pmi(report, "GP0", trap::nmis, before, pmu::GP0);
    wrapped(report, "GP0", pmu::FULL_PMC);
    stop();
}

fn fixed_counter(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    apic::set_lvtpc(apic::LVT_NMI);
    wrmsr(pmu::FIXED + 1, leaf.max_count() + 1 - LEFT);
    wrmsr(pmu::FIXED_CONTROL, pmu::FIXED1_ON | 0x80);
    wrmsr(pmu::GLOBAL_CONTROL, pmu::FIXED1);
    let came = pmu::spin_until(|| trap::nmis() != before);
    check!(
        report,
        "G-404",
        came,
        true,
        "fixed 1 with PMI: an NMI comes"
    );
    one_pmi(report, "fixed 1", trap::nmis, before, pmu::FIXED1);
    wrapped(report, "fixed 1", pmu::FIXED + 1);
    wrmsr(pmu::FIXED_CONTROL, 0);
}

/// A masked LVTPC holds the PMI back, not the status.
fn masked(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    arm(leaf, apic::LVT_NMI | apic::LVT_MASKED, pmu::INT);
    let set = pmu::spin_until(|| rdmsr(pmu::GLOBAL_STATUS) == pmu::GP0);
    check!(
        report,
        "s1.4",
        set,
        true,
        "masked LVTPC: the status bit comes"
    );
    pmu::spin_for(QUIET);
    nmis(report, "G-403", before, 0, "masked LVTPC: NMIs");
    stop();
    status(report, "s1.4", 0, "masked LVTPC: status cleared by 0x390");
}

/// The wrap sets the status whether or not INT is set.
fn without_int(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    arm(leaf, apic::LVT_NMI, 0);
    let set = pmu::spin_until(|| rdmsr(pmu::GLOBAL_STATUS) == pmu::GP0);
    check!(report, "s1.4", set, true, "no INT: the status bit comes");
    pmu::spin_for(QUIET);
    nmis(report, "s1.4", before, 0, "no INT: NMIs");
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    wrmsr(pmu::GLOBAL_OVERFLOW, pmu::FIXED1);
    status(
        report,
        "s1.4",
        pmu::GP0,
        "0x390 clears only the bits written",
    );
    stop();
    status(report, "s1.4", 0, "no INT: status cleared by 0x390");
}

/// Re-enabling with the status still set delivers the PMI at once.
fn re_arm(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    pmi::set_handler(Handler::LeaveStatus);
    arm(leaf, apic::LVT_NMI, pmu::INT);
    let came = pmu::spin_until(|| trap::nmis() != before);
    check!(
        report,
        "G-404",
        came,
        true,
        "not acknowledged: the first NMI comes"
    );
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-401",
        before,
        1,
        "not acknowledged: NMIs before re-arming",
    );
    status(report, "G-405", pmu::GP0, "not acknowledged: status stays");
    // Far from the next wrap: an NMI can only come from the status.
    pmi::set_handler(Handler::Acknowledge);
    wrmsr(pmu::FULL_PMC, 0);
    wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0);
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-402",
        before,
        2,
        "NMIs after re-arming with the status set",
    );
    check!(
        report,
        "G-402",
        pmi::seen(),
        pmu::GP0,
        "status seen after re-arming"
    );
    wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0);
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-402",
        before,
        2,
        "NMIs after re-arming with the status clear",
    );
    stop();
}

/// A second overflow before the handler re-armed raises status, but no PMI.
fn once_per_arming(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    let both = pmu::GP0 | pmu::GP0 << 1;
    pmi::set_handler(Handler::Nothing);
    wrmsr(pmu::FULL_PMC + 1, leaf.max_count() + 1 - 3 * LEFT);
    wrmsr(pmu::EVENT_SELECT + 1, pmu::CYCLES | pmu::EN | pmu::INT);
    load(leaf, apic::LVT_NMI, pmu::INT);
    wrmsr(pmu::GLOBAL_CONTROL, both);
    let set = pmu::spin_until(|| rdmsr(pmu::GLOBAL_STATUS) == both);
    check!(
        report,
        "s1.4",
        set,
        true,
        "GP0 and GP1: both status bits come"
    );
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-401",
        before,
        1,
        "GP0 and GP1: NMIs for one arming",
    );
    pmi::set_handler(Handler::Acknowledge);
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    apic::set_lvtpc(apic::LVT_NMI);
    wrmsr(pmu::GLOBAL_CONTROL, both);
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-402",
        before,
        2,
        "GP0 and GP1: NMIs after re-arming",
    );
    check!(
        report,
        "G-402",
        pmi::seen(),
        both,
        "GP0 and GP1: status seen"
    );
    wrmsr(pmu::EVENT_SELECT + 1, 0);
    stop();
}

/// A fixed-mode LVTPC delivers its vector, and no NMI.
fn fixed_vector(report: &mut Report, leaf: Leaf0A) {
    let (nmis, before) = (trap::nmis(), trap::interrupts());
    arm(leaf, u32::from(PMI_VECTOR), pmu::INT);
    let came = pmu::spin_until(|| {
        interrupts_for(100);
        trap::interrupts() != before
    });
    check!(
        report,
        "G-403",
        came,
        true,
        "fixed-mode LVTPC: the vector comes"
    );
    pmu::spin_for(QUIET);
    interrupts_for(100);
    one_pmi(
        report,
        "fixed-mode LVTPC",
        trap::interrupts,
        before,
        pmu::GP0,
    );
    check!(
        report,
        "G-403",
        trap::nmis() - nmis,
        0,
        "fixed-mode LVTPC: NMIs"
    );
    stop();
}

/// Many overflows, each with its one NMI.
fn many(report: &mut Report, leaf: Leaf0A) {
    let before = trap::nmis();
    for round in 1..=REPEATS {
        arm(leaf, apic::LVT_NMI, pmu::INT);
        let came = pmu::spin_until(|| trap::nmis() != before + round - 1);
        if !check!(
            report,
            "G-004",
            came,
            true,
            "an NMI comes in round {round} of {REPEATS}"
        ) {
            break;
        }
        check!(
            report,
            "G-105",
            pmi::seen(),
            pmu::GP0,
            "status in round {round}"
        );
    }
    pmu::spin_for(QUIET);
    nmis(
        report,
        "G-004",
        before,
        REPEATS,
        "NMIs for as many overflows",
    );
    stop();
}
