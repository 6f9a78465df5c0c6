//! AMD's core counters, of the generation that CPUID tells of: registers, counting,
//! one PMI. guest-contract §3, §8; rules G-001, G-004, G-103, G-301, G-302, G-303,
//! G-304.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::{AMD_CLEAR, AMD_CONTROL, AMD_LEGACY, AMD_SET, AMD_STATUS};
use guest_tests::counters::{Counters, is_amd};
use guest_tests::cpu::{cpuid, rdmsr, rdmsr_checked, wrmsr, wrmsr_checked};
use guest_tests::pmu::{EN, INT, low_bits, spin_for, spin_until};
use guest_tests::{apic, check, payload, println, trap};

payload!(main);

/// The first of the four counters at the old addresses.
const LEGACY_CTR: u32 = AMD_LEGACY + 4;
const HWCR: u32 = 0xc001_0015;
const IRPERF_ENABLE: u64 = 1 << 30;
/// What an event select stores.
const STORED: u64 = 0x30f_ffd7_ffff;
const MASK: u64 = (1 << 48) - 1;
/// TSC ticks in which a counter that must not move would move.
const QUIET: u64 = 200_000;
/// Counts to a wrap.
const LEFT: u64 = 200_000;

fn main(report: &mut Report) {
    let found = Counters::find().filter(|_| is_amd());
    check!(
        report,
        "s3.1",
        found.is_some(),
        true,
        "an AMD CPU: no PMU to test otherwise"
    );
    let Some(found) = found else { return };
    println!("{found:?}");
    let family = cpuid(1, 0).eax >> 20 & 0xff;
    check!(report, "s3.1", family >= 8, true, "family 17h or later");
    check!(report, "s3.1", cpuid(0xa, 0).eax, 0, "no leaf 0AH");
    if found.has_globals() {
        let told = cpuid(0x8000_0022, 0).ebx & 0xf;
        check!(report, "s3.1", told, 6, "counters of leaf 80000022H");
    }
    registers(report, found);
    aliases(report, found);
    globals(report, found);
    hardware_configuration(report);
    counting(report, found);
    one_nmi(report, found);
}

/// A register that keeps the bits of `mask` of each value and drops the others.
fn keeps(report: &mut Report, rule: &str, msr: u32, mask: u64) {
    for value in [mask, !0, 1, 1 << 21, 1 << 47, 1 << 63, 0] {
        let wrote = wrmsr_checked(msr, value);
        check!(report, rule, wrote, Ok(()), "WRMSR {msr:#x} <- {value:#x}");
        let now = rdmsr_checked(msr);
        check!(
            report,
            rule,
            now,
            Ok(value & mask),
            "RDMSR {msr:#x} after {value:#x}"
        );
    }
}

fn registers(report: &mut Report, found: Counters) {
    if found.has_globals() {
        let all = low_bits(found.number);
        check!(
            report,
            "s3.2",
            rdmsr_checked(AMD_CONTROL),
            Ok(all),
            "reset GLOBAL_CTL"
        );
        wrmsr(AMD_CONTROL, 0);
    }
    for i in 0..found.number {
        let (sel, ctr) = (found.select(i), found.counter(i));
        check!(report, "G-001", rdmsr_checked(sel), Ok(0), "reset {sel:#x}");
        check!(report, "s3.2", rdmsr_checked(ctr), Ok(0), "reset {ctr:#x}");
        // The counter first: the select may let it count.
        keeps(report, "s3.2", ctr, MASK);
        keeps(report, "G-301", sel, STORED);
    }
}

/// The old addresses are the first four counters.
fn aliases(report: &mut Report, found: Counters) {
    for i in 0..4 {
        let (sel, ctr) = (found.select(i), found.counter(i));
        wrmsr(AMD_LEGACY + i, found.cycles());
        wrmsr(LEGACY_CTR + i, 77);
        check!(
            report,
            "s3.1",
            rdmsr_checked(sel),
            Ok(found.cycles()),
            "alias {sel:#x}"
        );
        check!(report, "s3.1", rdmsr_checked(ctr), Ok(77), "alias {ctr:#x}");
        wrmsr(sel, 0);
        wrmsr(ctr, 0);
    }
}

fn globals(report: &mut Report, found: Counters) {
    if !found.has_globals() {
        return;
    }
    let all = low_bits(found.number);
    keeps(report, "s3.2", AMD_CONTROL, all);
    for (msr, value, status) in [
        (AMD_SET, !0, all),
        (AMD_STATUS, 0, all),
        (AMD_CLEAR, !0b101, 0b101),
        (AMD_CLEAR, !0, 0),
    ] {
        let wrote = wrmsr_checked(msr, value);
        check!(
            report,
            "G-302",
            wrote,
            Ok(()),
            "WRMSR {msr:#x} <- {value:#x}"
        );
        let now = rdmsr_checked(AMD_STATUS);
        check!(
            report,
            "G-302",
            now,
            Ok(status),
            "status after {msr:#x} <- {value:#x}"
        );
    }
}

/// HWCR, whose bit 30 (IRPerfEn) the kernel tries to set: KVM's register, and
/// IRPERF is hidden.
fn hardware_configuration(report: &mut Report) {
    let before = rdmsr_checked(HWCR);
    check!(report, "s8 HWCR", before.is_ok(), true, "RDMSR HWCR");
    let Ok(before) = before else { return };
    // A #GP is as good: the kernel tolerates it.
    _ = wrmsr_checked(HWCR, before | IRPERF_ENABLE);
    let after = rdmsr_checked(HWCR).map(|value| value & IRPERF_ENABLE);
    check!(report, "s8 HWCR", after, Ok(0), "IRPerfEn does not stick");
    let wrote = wrmsr_checked(HWCR, before);
    check!(report, "s8 HWCR", wrote, Ok(()), "HWCR takes its own value");
}

fn counting(report: &mut Report, found: Counters) {
    for i in 0..found.number {
        let (sel, ctr) = (found.select(i), found.counter(i));
        found.run(1 << i);
        wrmsr(sel, found.cycles() | EN);
        let moves = spin_until(|| rdmsr(ctr) > 0);
        check!(
            report,
            "s3.2",
            moves,
            true,
            "{ctr:#x} counts while it is enabled"
        );
        wrmsr(sel, found.cycles());
        stands(report, ctr, "EN is clear");
        // For a host's guests alone: there are none.
        wrmsr(sel, found.cycles() | EN | 1 << 40);
        stands(report, ctr, "it is for guests alone");
        if found.has_globals() {
            wrmsr(AMD_CONTROL, 0);
            wrmsr(sel, found.cycles() | EN);
            stands(report, ctr, "GLOBAL_CTL is clear");
        }
        wrmsr(sel, 0);
    }
}

fn stands(report: &mut Report, ctr: u32, why: &str) {
    let before = rdmsr(ctr);
    spin_for(QUIET);
    check!(
        report,
        "G-103",
        rdmsr(ctr),
        before,
        "{ctr:#x} stands while {why}"
    );
}

/// What the handler saw: the status, or the counter where there is none.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn one_nmi(report: &mut Report, found: Counters) {
    apic::enable();
    // As the drivers' handlers: PerfMonV2's acknowledges, the others' sets the
    // next period. No LVTPC is written (G-304).
    if found.has_globals() {
        trap::set_nmi_hook(|| {
            wrmsr(AMD_CONTROL, 0);
            let status = rdmsr(AMD_STATUS);
            SEEN.store(status, Ordering::Relaxed);
            wrmsr(AMD_CLEAR, !0);
        });
    } else {
        trap::set_nmi_hook(|| {
            SEEN.store(rdmsr(LEGACY_CTR), Ordering::Relaxed);
            wrmsr(LEGACY_CTR, 0);
        });
    }
    apic::set_lvtpc(apic::LVT_NMI);
    for round in 0..3 {
        let before = trap::nmis();
        SEEN.store(0, Ordering::Relaxed);
        found.load(0, LEFT, INT);
        found.run(1);
        let came = spin_until(|| trap::nmis() != before);
        check!(report, "G-303", came, true, "round {round}: an NMI comes");
        spin_for(QUIET);
        check!(
            report,
            "G-004",
            trap::nmis() - before,
            1,
            "round {round}: NMIs"
        );
        let seen = SEEN.load(Ordering::Relaxed);
        let is_right = if found.has_globals() {
            seen == 1
        } else {
            seen >> 47 == 0
        };
        check!(
            report,
            "G-303",
            is_right,
            true,
            "round {round}: the handler sees {seen:#x}"
        );
        wrmsr(found.select(0), 0);
    }
    let lvtpc = apic::lvtpc();
    check!(
        report,
        "G-304",
        lvtpc,
        apic::LVT_NMI,
        "LVTPC after all that"
    );
}
