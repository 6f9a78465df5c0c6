//! AMD's core counters, of the generation that CPUID tells of: registers, counting,
//! one PMI. guest-contract §3, §8; rules G-001, G-004, G-103, G-301, G-302, G-303,
//! G-304.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::cpu::{cpuid, rdmsr, rdmsr_checked, wrmsr, wrmsr_checked};
use guest_tests::pmu::{EN, INT, low_bits, spin_for, spin_until};
use guest_tests::{apic, check, payload, println, trap};

payload!(main);

const LEGACY_SEL: u32 = 0xc001_0000;
const LEGACY_CTR: u32 = 0xc001_0004;
const CORE_SEL: u32 = 0xc001_0200;
const GLOBAL_STATUS: u32 = 0xc000_0300;
const GLOBAL_CTL: u32 = 0xc000_0301;
const GLOBAL_CLR: u32 = 0xc000_0302;
const GLOBAL_SET: u32 = 0xc000_0303;
const HWCR: u32 = 0xc001_0015;
const IRPERF_ENABLE: u64 = 1 << 30;
/// Cycles not halted, in user and kernel mode.
const CYCLES: u64 = 0x3_0076;
/// What an event select stores.
const STORED: u64 = 0x30f_ffd7_ffff;
const MASK: u64 = (1 << 48) - 1;
/// TSC ticks in which a counter that must not move would move.
const QUIET: u64 = 200_000;
/// Counts to a wrap.
const LEFT: u64 = 200_000;

/// What CPUID says.
#[derive(Debug, Clone, Copy)]
struct Found {
    core: bool,
    /// Counters by leaf 8000_0022H; 0 without PerfMonV2.
    v2: u32,
}

impl Found {
    fn read() -> Self {
        let core = cpuid(0x8000_0001, 0).ecx >> 23 & 1 == 1;
        let has_leaf = cpuid(0x8000_0000, 0).eax >= 0x8000_0022;
        let leaf = cpuid(0x8000_0022, 0);
        let v2 = if has_leaf && leaf.eax & 1 == 1 {
            leaf.ebx & 0xf
        } else {
            0
        };
        Self { core, v2 }
    }

    const fn counters(self) -> u32 {
        if self.core { 6 } else { 4 }
    }

    /// Event select and counter `i`.
    const fn pair(self, i: u32) -> (u32, u32) {
        if self.core {
            (CORE_SEL + 2 * i, CORE_SEL + 2 * i + 1)
        } else {
            (LEGACY_SEL + i, LEGACY_CTR + i)
        }
    }
}

fn main(report: &mut Report) {
    let vendor = cpuid(0, 0).ebx;
    let is_amd = vendor == u32::from_le_bytes(*b"Auth");
    if !check!(
        report,
        "s3.1",
        is_amd,
        true,
        "an AMD CPU: no PMU to test otherwise"
    ) {
        return;
    }
    let found = Found::read();
    println!("{found:?}");
    let family = cpuid(1, 0).eax >> 20 & 0xff;
    check!(report, "s3.1", family >= 8, true, "family 17h or later");
    check!(report, "s3.1", cpuid(0xa, 0).eax, 0, "no leaf 0AH");
    let expected = if found.v2 > 0 { 6 } else { 0 };
    check!(
        report,
        "s3.1",
        found.v2,
        expected,
        "counters of leaf 80000022H"
    );
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

fn registers(report: &mut Report, found: Found) {
    if found.v2 > 0 {
        let all = low_bits(found.v2);
        check!(
            report,
            "s3.2",
            rdmsr_checked(GLOBAL_CTL),
            Ok(all),
            "reset GLOBAL_CTL"
        );
        wrmsr(GLOBAL_CTL, 0);
    }
    for i in 0..found.counters() {
        let (sel, ctr) = found.pair(i);
        check!(report, "G-001", rdmsr_checked(sel), Ok(0), "reset {sel:#x}");
        check!(report, "s3.2", rdmsr_checked(ctr), Ok(0), "reset {ctr:#x}");
        // The counter first: the select may let it count.
        keeps(report, "s3.2", ctr, MASK);
        keeps(report, "G-301", sel, STORED);
    }
}

/// The old addresses are the first four counters.
fn aliases(report: &mut Report, found: Found) {
    for i in 0..4 {
        let (sel, ctr) = found.pair(i);
        wrmsr(LEGACY_SEL + i, CYCLES);
        wrmsr(LEGACY_CTR + i, 77);
        check!(
            report,
            "s3.1",
            rdmsr_checked(sel),
            Ok(CYCLES),
            "alias {sel:#x}"
        );
        check!(report, "s3.1", rdmsr_checked(ctr), Ok(77), "alias {ctr:#x}");
        wrmsr(sel, 0);
        wrmsr(ctr, 0);
    }
}

fn globals(report: &mut Report, found: Found) {
    if found.v2 == 0 {
        return;
    }
    let all = low_bits(found.v2);
    keeps(report, "s3.2", GLOBAL_CTL, all);
    for (msr, value, status) in [
        (GLOBAL_SET, !0, all),
        (GLOBAL_STATUS, 0, all),
        (GLOBAL_CLR, !0b101, 0b101),
        (GLOBAL_CLR, !0, 0),
    ] {
        let wrote = wrmsr_checked(msr, value);
        check!(
            report,
            "G-302",
            wrote,
            Ok(()),
            "WRMSR {msr:#x} <- {value:#x}"
        );
        let now = rdmsr_checked(GLOBAL_STATUS);
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

fn counting(report: &mut Report, found: Found) {
    for i in 0..found.counters() {
        let (sel, ctr) = found.pair(i);
        if found.v2 > 0 {
            wrmsr(GLOBAL_CTL, 1 << i);
        }
        wrmsr(sel, CYCLES | EN);
        let moves = spin_until(|| rdmsr(ctr) > 0);
        check!(
            report,
            "s3.2",
            moves,
            true,
            "{ctr:#x} counts while it is enabled"
        );
        wrmsr(sel, CYCLES);
        stands(report, ctr, "EN is clear");
        // For a host's guests alone: there are none.
        wrmsr(sel, CYCLES | EN | 1 << 40);
        stands(report, ctr, "it is for guests alone");
        if found.v2 > 0 {
            wrmsr(GLOBAL_CTL, 0);
            wrmsr(sel, CYCLES | EN);
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

fn one_nmi(report: &mut Report, found: Found) {
    apic::enable();
    // As the drivers' handlers: PerfMonV2's acknowledges, the others' sets the
    // next period. No LVTPC is written (G-304).
    if found.v2 > 0 {
        trap::set_nmi_hook(|| {
            wrmsr(GLOBAL_CTL, 0);
            let status = rdmsr(GLOBAL_STATUS);
            SEEN.store(status, Ordering::Relaxed);
            wrmsr(GLOBAL_CLR, !0);
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
        let (sel, ctr) = found.pair(0);
        wrmsr(ctr, MASK + 1 - LEFT);
        wrmsr(sel, CYCLES | EN | INT);
        if found.v2 > 0 {
            wrmsr(GLOBAL_CTL, 1);
        }
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
        let is_right = if found.v2 > 0 {
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
        wrmsr(sel, 0);
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
