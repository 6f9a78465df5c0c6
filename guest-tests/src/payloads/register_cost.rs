//! What each access of a PMU's register costs, from one instruction of the guest to the
//! next, in ticks of the TSC. `cargo xtask bench` runs it where an instruction is a tick.
//!
//! Prints `bench NAME TICKS` for each kind of access: the median of many. With `floor=1`
//! only those that any VMM can answer without a PMU. Checks that the accesses were
//! answered; no cost is checked.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "RDPMC in ring 3 between two reads of the TSC")]

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::cpu::{inb, permit_rdpmc, rdmsr, rdpmc_nop_checked, rdtsc, wrmsr};
use guest_tests::pmu::{
    CYCLES, EN, EVENT_SELECT, FULL_PMC, GLOBAL_CONTROL, GLOBAL_OVERFLOW, GLOBAL_STATUS, INT,
    Leaf0A, low_bits, spin_until,
};
use guest_tests::serial::Decimal;
use guest_tests::{apic, args, check, doorbell, paging, payload, println, trap, user};

payload!(main);

/// Accesses that a median is made of.
const ACCESSES: usize = 1_000;
/// PMIs that a median is made of.
const PMIS: usize = 400;
/// Counts from one PMI to the next.
const PERIOD: u64 = 100_000;
/// Counters of the largest measurement.
const COUNTERS: u32 = 4;
/// A port that no device has.
const NOBODY: u16 = 0x1234;
/// IA32_P5_MC_ADDR, which reads as a constant.
const CONSTANT: u32 = 0;

fn main(report: &mut Report) {
    apic::enable();
    any_vmm();
    if args::number("floor", 0) == 1 {
        return;
    }
    let counters = Leaf0A::read();
    let enough = counters.version >= 2 && counters.gp >= COUNTERS && counters.width == 48;
    check!(
        report,
        "s0",
        enough,
        true,
        "version 2, 4 counters of 48 bits"
    );
    let mapped = paging::open_to_ring_3();
    check!(report, "self", mapped, true, "EFER.NXE can be set");
    if !report.passed() {
        return;
    }
    doorbell::install();
    // The first start has the host look for the readers in the kernel's text.
    start(1);
    let is_read = rdpmc_nop_checked(0).is_ok();
    check!(report, "s5.6", is_read, true, "the kernel's RDPMC");
    stop();
    idle();
    one_running();
    four_running();
    user_rdpmc(report);
    pmis(report);
}

/// What needs no PMU: the floors.
fn any_vmm() {
    each("pio_in", || {
        black_box(inb(NOBODY));
    });
    each("rdmsr_constant_idle", || {
        black_box(rdmsr(CONSTANT));
    });
    each("eventsel_unchanged_idle", || wrmsr(EVENT_SELECT, 0));
    each("lvtpc", || apic::set_lvtpc(apic::LVT_NMI));
}

fn idle() {
    each("global_ctrl_unchanged_idle", || wrmsr(GLOBAL_CONTROL, 0));
    each("counter_read_idle", || {
        black_box(rdmsr(FULL_PMC));
    });
}

fn one_running() {
    start(1);
    each("rdmsr_constant_running", || {
        black_box(rdmsr(CONSTANT));
    });
    each("eventsel_unchanged_running", || {
        wrmsr(EVENT_SELECT, CYCLES | EN);
    });
    stop_and_start(["global_ctrl_stop_1", "global_ctrl_start_1"], 1);
    each("counter_read_running", || {
        black_box(rdmsr(FULL_PMC));
    });
    let mut value = 0;
    each("counter_rewrite_running", || {
        value += 1;
        wrmsr(FULL_PMC, value);
    });
    each("rdpmc_kernel_running", || {
        black_box(rdpmc_nop_checked(0).unwrap_or(0));
    });
    stop();
}

fn four_running() {
    start(COUNTERS);
    let all = low_bits(COUNTERS);
    each("global_ctrl_unchanged_4", || wrmsr(GLOBAL_CONTROL, all));
    stop_and_start(["global_ctrl_stop_4", "global_ctrl_start_4"], all);
    stop();
}

fn stop_and_start(names: [&str; 2], mask: u64) {
    let mut stops = [0; ACCESSES];
    let mut starts = [0; ACCESSES];
    for (stop, start) in stops.iter_mut().zip(&mut starts) {
        *stop = ticks(|| wrmsr(GLOBAL_CONTROL, 0));
        *start = ticks(|| wrmsr(GLOBAL_CONTROL, mask));
    }
    tell(names[0], &mut stops);
    tell(names[1], &mut starts);
}

core::arch::global_asm!(
    ".globl ring3_timed_rdpmc",
    "ring3_timed_rdpmc:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r9, rax",
    "xor ecx, ecx",
    "7: rdpmc",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, r9",
    "ret",
    "8: mov rax, -1",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 7b, 8b",
    ".popsection",
);

unsafe extern "C" {
    safe fn ring3_timed_rdpmc(_: u64) -> u64;
}

extern "C" fn timed_rdpmc(_: u64) -> u64 {
    ring3_timed_rdpmc(0)
}

/// RDPMC in ring 3, where CR4.PCE permits it.
fn user_rdpmc(report: &mut Report) {
    permit_rdpmc(true);
    start(1);
    let mut samples = [0; ACCESSES];
    let mut answered = true;
    for sample in &mut samples {
        let took = user::call(timed_rdpmc, 0);
        answered &= took != u64::MAX;
        *sample = short(took);
    }
    if check!(report, "G-506", answered, true, "RDPMC in ring 3") {
        tell("rdpmc_user_running", &mut samples);
    }
    permit_rdpmc(false);
    stop();
}

static ENTERED: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

/// Seven accesses of the PMU, as those of Linux's handler, and LVTPC.
fn handler() {
    ENTERED.store(rdtsc(), Ordering::Relaxed);
    apic::set_lvtpc(apic::LVT_NMI);
    wrmsr(GLOBAL_CONTROL, 0);
    let status = rdmsr(GLOBAL_STATUS);
    wrmsr(GLOBAL_OVERFLOW, status);
    black_box(rdpmc_nop_checked(0).unwrap_or(0));
    wrmsr(FULL_PMC, to_the_wrap());
    black_box(rdmsr(GLOBAL_STATUS));
    wrmsr(GLOBAL_CONTROL, 1);
    LEFT.store(rdtsc(), Ordering::Relaxed);
    DONE.store(DONE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A counter of 48 bits with [`PERIOD`] counts to go.
fn to_the_wrap() -> u64 {
    PERIOD.wrapping_neg() & low_bits(48)
}

/// From an overflow to the handler's first instruction, and through the handler. The next
/// period begins when the handler before has started the counter.
fn pmis(report: &mut Report) {
    trap::set_nmi_hook(handler);
    apic::set_lvtpc(apic::LVT_NMI);
    wrmsr(FULL_PMC, to_the_wrap());
    wrmsr(EVENT_SELECT, CYCLES | EN | INT);
    let mut entries = [0; PMIS];
    let mut handlers = [0; PMIS];
    let mut before = rdtsc();
    wrmsr(GLOBAL_CONTROL, 1);
    let mut came = true;
    for (done, (entry, inside)) in (0..).zip(entries.iter_mut().zip(&mut handlers)) {
        came = spin_until(|| DONE.load(Ordering::Relaxed) > done);
        if !came {
            break;
        }
        let entered = ENTERED.load(Ordering::Relaxed);
        *entry = short(entered.wrapping_sub(before).saturating_sub(PERIOD));
        before = LEFT.load(Ordering::Relaxed);
        *inside = short(before.wrapping_sub(entered));
    }
    wrmsr(GLOBAL_CONTROL, 0);
    if check!(report, "G-004", came, true, "a PMI for each overflow") {
        tell("pmi_entry", &mut entries);
        tell("pmi_handler", &mut handlers);
    }
    stop();
}

/// Has the first counters count cycles.
fn start(counters: u32) {
    for i in 0..counters {
        wrmsr(FULL_PMC + i, 0);
        wrmsr(EVENT_SELECT + i, CYCLES | EN);
    }
    wrmsr(GLOBAL_CONTROL, low_bits(counters));
}

fn stop() {
    wrmsr(GLOBAL_CONTROL, 0);
    for i in 0..COUNTERS {
        wrmsr(EVENT_SELECT + i, 0);
        wrmsr(FULL_PMC + i, 0);
    }
    wrmsr(GLOBAL_OVERFLOW, low_bits(COUNTERS));
}

/// Times an access many times.
#[inline(always)]
fn each(name: &str, mut access: impl FnMut()) {
    let mut samples = [0; ACCESSES];
    for sample in &mut samples {
        *sample = ticks(&mut access);
    }
    tell(name, &mut samples);
}

#[inline(always)]
fn ticks(access: impl FnOnce()) -> u32 {
    let start = rdtsc();
    access();
    short(rdtsc().wrapping_sub(start))
}

fn short(ticks: u64) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn tell(name: &str, samples: &mut [u32]) {
    samples.sort_unstable();
    println!("bench {name} {}", Decimal(samples[samples.len() / 2]));
}
