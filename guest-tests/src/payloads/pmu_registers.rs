//! The registers of an architectural PMU of versions 2 to 5, without counting:
//! reset values, what is stored, reserved bits, read-only and absent registers.
//! guest-contract §8, §1.4, §1.5; rules G-001, G-003, G-105.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{Gp, rdmsr_checked, wrmsr, wrmsr_checked};
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::registers::{faults, read_only, stores};
use guest_tests::{check, payload};

payload!(main);

const SMI_COUNT: u32 = 0x34;
/// The GP counters that the register layout has room for.
const ROOM: u32 = 8;
/// The fixed counters that it has room for.
const FIXED_ROOM: u32 = 4;

fn main(report: &mut Report) {
    let leaf = Leaf0A::read();
    if !check!(
        report,
        "s0",
        (2..=5).contains(&leaf.version),
        true,
        "leaf 0AH version {}: no PMU to test otherwise",
        leaf.version
    ) {
        return;
    }
    reset_values(report, leaf);
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    driver_probe(report, leaf);
    event_selects(report, leaf);
    gp_counters(report, leaf);
    fixed_counters(report, leaf);
    fixed_control(report, leaf);
    global_registers(report, leaf);
    status_registers(report, leaf);
    debug_control(report);
    absent(report, leaf);
}

fn reset_values(report: &mut Report, leaf: Leaf0A) {
    for i in 0..leaf.gp {
        check!(
            report,
            "G-001",
            rdmsr_checked(pmu::EVENT_SELECT + i),
            Ok(0),
            "reset PERFEVTSEL{i}"
        );
        check!(
            report,
            "s1.4",
            rdmsr_checked(pmu::PMC + i),
            Ok(0),
            "reset PMC{i}"
        );
        check!(
            report,
            "s1.4",
            rdmsr_checked(pmu::FULL_PMC + i),
            Ok(0),
            "reset A_PMC{i}"
        );
    }
    for i in 0..leaf.fixed {
        check!(
            report,
            "s1.4",
            rdmsr_checked(pmu::FIXED + i),
            Ok(0),
            "reset FIXED_CTR{i}"
        );
    }
    let globals = [
        (pmu::FIXED_CONTROL, 0, "FIXED_CTR_CTRL"),
        (pmu::GLOBAL_STATUS, 0, "GLOBAL_STATUS"),
        (pmu::GLOBAL_CONTROL, leaf.gp_mask(), "GLOBAL_CTRL"),
        (pmu::GLOBAL_OVERFLOW, 0, "GLOBAL_OVF_CTRL"),
    ];
    for (msr, value, name) in globals {
        check!(
            report,
            "s1.4",
            rdmsr_checked(msr),
            Ok(value),
            "reset {name}"
        );
    }
}

/// The write test by which Linux decides to bind.
fn driver_probe(report: &mut Report, leaf: Leaf0A) {
    let last = pmu::FULL_PMC + leaf.gp - 1;
    let value = rdmsr_checked(last).unwrap_or(0) ^ 0xffff;
    check!(
        report,
        "G-001",
        wrmsr_checked(last, value),
        Ok(()),
        "probe writes {last:#x}"
    );
    check!(
        report,
        "G-001",
        rdmsr_checked(last),
        Ok(value),
        "probe reads {last:#x} back"
    );
}

fn event_selects(report: &mut Report, leaf: Leaf0A) {
    let good = [
        pmu::CYCLES | pmu::INT,
        pmu::CYCLES | pmu::EN,
        0xffdf_ffff,
        0,
    ];
    let bad = [1 << 32, 1 << 34, 1 << 36, 1 << 40, 1 << 63];
    let any_thread = [1 << 21];
    for i in 0..leaf.gp {
        let msr = pmu::EVENT_SELECT + i;
        stores(report, "s1.4 EVTSEL", msr, &good, &bad);
        let (good, bad) = by_version(has_any_thread(leaf), &any_thread);
        stores(report, "s1.4 EVTSEL AnyThread", msr, good, bad);
    }
}

fn gp_counters(report: &mut Report, leaf: Leaf0A) {
    let max = leaf.max_count();
    let sign = max & !0xffff_ffff;
    let legacy = [
        (0x6789_abcd, 0x6789_abcd),
        (0xdead_0000_0000_0001, 1),
        (0x8000_0000, sign | 0x8000_0000),
        (0xffff_ffff, max),
        (0, 0),
    ];
    for i in 0..leaf.gp {
        let (low, full) = (pmu::PMC + i, pmu::FULL_PMC + i);
        for (value, expected) in legacy {
            check!(
                report,
                "s1.4 PMC",
                wrmsr_checked(low, value),
                Ok(()),
                "WRMSR {low:#x} <- {value:#x}"
            );
            check!(
                report,
                "s1.4 PMC",
                rdmsr_checked(low),
                Ok(expected),
                "RDMSR {low:#x} after {value:#x}"
            );
            check!(
                report,
                "s1.4 PMC",
                rdmsr_checked(full),
                Ok(expected),
                "RDMSR {full:#x} alias"
            );
        }
        let value = max - u64::from(i);
        stores(
            report,
            "s1.4 A_PMC",
            full,
            &[value, 0x1_0000_0001],
            &[max + 1, 1 << 63],
        );
        wrmsr(full, value);
        check!(
            report,
            "s1.4 A_PMC",
            rdmsr_checked(low),
            Ok(value),
            "RDMSR {low:#x} alias"
        );
        wrmsr(full, 0);
    }
}

fn fixed_counters(report: &mut Report, leaf: Leaf0A) {
    let max = leaf.max_count();
    for i in 0..leaf.fixed {
        stores(
            report,
            "s1.4 FC",
            pmu::FIXED + i,
            &[max, 0x8000_0000, 7],
            &[max + 1, 1 << 63],
        );
    }
}

fn fixed_control(report: &mut Report, leaf: Leaf0A) {
    let every = (0..leaf.fixed).fold(0, |all, i| all | 0xb << (4 * i));
    let good = [every, 0xb0, 0x1, 0x2, 0];
    let end = 4 * leaf.fixed;
    let bad = [1 << end, 1 << (end + 3), 1 << 32, 1 << 36, 1 << 63];
    stores(report, "s1.4 0x38d", pmu::FIXED_CONTROL, &good, &bad);
    let any_thread = [1 << 2, 1 << 6];
    let (good, bad) = by_version(has_any_thread(leaf), &any_thread);
    stores(
        report,
        "s1.4 0x38d AnyThread",
        pmu::FIXED_CONTROL,
        good,
        bad,
    );
}

fn global_registers(report: &mut Report, leaf: Leaf0A) {
    let all = leaf.gp_mask() | leaf.fixed_mask();
    let beyond = [1 << leaf.gp, 1 << 31, 1 << (32 + leaf.fixed), 1 << 48];
    stores(
        report,
        "s1.4 0x38f",
        pmu::GLOBAL_CONTROL,
        &[all, 1, 1 << 32, 0],
        &beyond,
    );
    check!(
        report,
        "s1.4 0x38f",
        wrmsr_checked(pmu::GLOBAL_CONTROL, 1 << 63),
        Err(Gp),
        "bit 63"
    );
    read_only(report, "s1.4 0x38e", pmu::GLOBAL_STATUS, 0);
    read_only(report, "s1.4 0x345", pmu::CAPABILITIES, 0x2000);
    let overflow = pmu::GLOBAL_OVERFLOW;
    for value in [all, 1 << 62, 1 << 63, all | 3 << 62, 0] {
        check!(
            report,
            "s1.4 0x390",
            wrmsr_checked(overflow, value),
            Ok(()),
            "WRMSR 0x390 <- {value:#x}"
        );
        check!(
            report,
            "s1.4 0x390",
            rdmsr_checked(overflow),
            Ok(0),
            "RDMSR 0x390 after {value:#x}"
        );
    }
    for value in beyond {
        check!(
            report,
            "s1.4 0x390",
            wrmsr_checked(overflow, value),
            Err(Gp),
            "WRMSR 0x390 <- {value:#x}"
        );
    }
    let of_version_4 = if leaf.version >= 4 { Ok(()) } else { Err(Gp) };
    for value in [1 << 55, 1 << 58, 1 << 59, 1 << 60, 1 << 61] {
        check!(
            report,
            "s1.4 0x390 v4",
            wrmsr_checked(overflow, value),
            of_version_4,
            "WRMSR 0x390 <- {value:#x}"
        );
    }
}

/// STATUS_SET and INUSE: version 4 and later.
fn status_registers(report: &mut Report, leaf: Leaf0A) {
    if leaf.version < 4 {
        faults(report, pmu::GLOBAL_STATUS_SET, "STATUS_SET");
        faults(report, pmu::GLOBAL_INUSE, "INUSE");
        return;
    }
    let rule = "s1.4 0x391";
    let all = leaf.gp_mask() | leaf.fixed_mask();
    let set = pmu::GLOBAL_STATUS_SET;
    for (value, status) in [(1, 1), (1 << 32, 1 | 1 << 32), (all, all)] {
        let wrote = wrmsr_checked(set, value);
        check!(report, rule, wrote, Ok(()), "WRMSR 0x391 <- {value:#x}");
        let now = rdmsr_checked(pmu::GLOBAL_STATUS);
        check!(report, rule, now, Ok(status), "0x38e after {value:#x}");
    }
    // Bits of version 4 whose features are absent set nothing.
    for value in [1 << 55, 1 << 58, 1 << 60, 1 << 61, 1 << 62] {
        let wrote = wrmsr_checked(set, value);
        check!(report, rule, wrote, Ok(()), "WRMSR 0x391 <- {value:#x}");
        let now = rdmsr_checked(pmu::GLOBAL_STATUS);
        check!(report, "G-105", now, Ok(all), "0x38e after {value:#x}");
    }
    for value in [1 << leaf.gp, 1 << 48, 1 << 54, 1 << 57, 1 << 63] {
        let wrote = wrmsr_checked(set, value);
        check!(report, rule, wrote, Err(Gp), "WRMSR 0x391 <- {value:#x}");
    }
    wrmsr(pmu::GLOBAL_OVERFLOW, all);
    read_only(report, "s1.4 0x392", pmu::GLOBAL_INUSE, 0);
    wrmsr(pmu::EVENT_SELECT, pmu::CYCLES | pmu::INT);
    let used = rdmsr_checked(pmu::GLOBAL_INUSE);
    check!(
        report,
        "s1.4 0x392",
        used,
        Ok(1 | 1 << 63),
        "a select in use, with INT"
    );
    wrmsr(pmu::EVENT_SELECT, 0);
}

/// Freezing on a PMI is offered, of LBRs without effect; bus-lock detection, branch
/// tracing and freezing in SMM are not.
fn debug_control(report: &mut Report) {
    let bad = [1 << 2, 1 << 6, 1 << 7, 1 << 8, 1 << 14, 1 << 63];
    stores(
        report,
        "s1.4 0x1d9",
        pmu::DEBUG_CONTROL,
        &[1 << 11, 1 << 12, 0],
        &bad,
    );
}

const fn has_any_thread(leaf: Leaf0A) -> bool {
    matches!(leaf.version, 3 | 4)
}

/// `values` as good ones if this version has them, else as bad ones.
const fn by_version(has: bool, values: &[u64]) -> (&[u64], &[u64]) {
    if has { (values, &[]) } else { (&[], values) }
}

/// The counters beyond those that leaf 0AH tells of; other registers: pmu_absent.
fn absent(report: &mut Report, leaf: Leaf0A) {
    for i in leaf.gp..ROOM {
        for msr in [pmu::EVENT_SELECT + i, pmu::PMC + i, pmu::FULL_PMC + i] {
            faults(report, msr, "beyond the last counter");
        }
    }
    for i in leaf.fixed..FIXED_ROOM {
        faults(report, pmu::FIXED + i, "beyond the last fixed counter");
    }
    read_only(report, "s8 0x34", SMI_COUNT, 0);
}
