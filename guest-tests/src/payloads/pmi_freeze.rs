//! DEBUGCTL bit 12 has a PMI stop every counter: by GLOBAL_CTRL under versions 2
//! and 3, by a status bit that is cleared like the others from 4 on.
//! guest-contract §1.4 (0x1d9, 0x38e bit 59, 0x390); SDM vol. 3B, "Freezing LBR and
//! Performance Counters on PMI".
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::{Counters, Kind};
use guest_tests::cpu::{rdmsr, wrmsr};
use guest_tests::pmi::{self, Handler};
use guest_tests::pmu::{self, INT, Leaf0A, spin_for, spin_until};
use guest_tests::{apic, check, payload, trap};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 200_000;
/// TSC ticks in which a counter that must not move would move.
const QUIET: u64 = 1_000_000;
/// DEBUGCTL: freeze on PMI.
const FREEZE: u64 = 1 << 12;
/// GLOBAL_STATUS: the counters are frozen.
const FROZEN: u64 = 1 << 59;

fn main(report: &mut Report) {
    let found = Counters::find().filter(|counters| counters.kind == Kind::Intel);
    let Some(counters) = found else {
        check!(report, "s0", false, true, "global registers");
        return;
    };
    apic::enable();
    pmi::install();
    pmi::set_handler(Handler::Nothing);
    for (flags, freezes) in [(INT, true), (0, false)] {
        wrmsr(pmu::DEBUG_CONTROL, FREEZE);
        overflow(report, counters, flags, freezes);
    }
    wrmsr(pmu::DEBUG_CONTROL, 0);
    overflow(report, counters, INT, false);
}

/// Counter 0 wraps while 1 counts far from a wrap.
fn overflow(report: &mut Report, counters: Counters, flags: u64, freezes: bool) {
    let by_status = Leaf0A::read().version >= 4;
    let name = if freezes {
        "freezes"
    } else {
        "does not freeze"
    };
    let before = trap::nmis();
    apic::set_lvtpc(apic::LVT_NMI);
    counters.stop();
    counters.load(1, 1 << 30, flags);
    counters.load(0, LEFT, flags);
    counters.run(0b11);
    let wrapped = spin_until(|| counters.overflowed() & 1 == 1);
    check!(report, "s1.4", wrapped, true, "{name}: counter 0 wraps");
    let nmis = u32::from(flags == INT);
    spin_until(|| trap::nmis() - before == nmis);
    let came = trap::nmis() - before;
    check!(report, "G-004", came, nmis, "{name}: NMIs");
    let frozen = freezes && by_status;
    let status = if frozen { 1 | FROZEN } else { 1 };
    let got = counters.overflowed();
    check!(report, "s1.4 frozen", got, status, "{name}: status");
    let control = if freezes && !by_status { 0 } else { 0b11 };
    let got = rdmsr(pmu::GLOBAL_CONTROL);
    check!(report, "s1.4 frozen", got, control, "{name}: GLOBAL_CTRL");
    moves(report, counters, !freezes, name);
    if frozen {
        counters.acknowledge(FROZEN);
        let got = counters.overflowed();
        check!(report, "s1.4 0x390", got, 1, "{name}: status afterwards");
        moves(report, counters, true, "thawed");
    }
    counters.clear();
}

fn moves(report: &mut Report, counters: Counters, due: bool, name: &str) {
    for i in [0, 1] {
        let before = counters.value(i);
        let has_moved = || counters.value(i) != before;
        let moved = if due {
            spin_until(has_moved)
        } else {
            spin_for(QUIET);
            has_moved()
        };
        check!(
            report,
            "s1.4 frozen",
            moved,
            due,
            "{name}: counter {i} moves"
        );
    }
}
