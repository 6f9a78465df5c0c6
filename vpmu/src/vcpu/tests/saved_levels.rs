//! Restores of counters that count in user mode or in the kernel alone, on a
//! clock that samples the guest's level.

use super::twins::Dice;
use super::*;
use crate::guest::{Model, ModelConfig, ModelKind};
use crate::host::Level;
use crate::host::software::{Khz, SoftwarePmu};
use crate::host::sum::SumPmu;

const USER: u64 = 0x51_003c;
const KERNEL: u64 = 0x52_003c;
const MS: u64 = 1_000_000;
const RATE: Khz = Khz(2_500_000);

type Clocked<H> = VcpuPmu<Model, H>;

fn fresh() -> Model {
    let kind = ModelKind::from_name("intel-v2").unwrap();
    Model::new(ModelConfig::new(kind, kind.shape(), SoftwarePmu::SUPPORTED).unwrap())
}

/// `cycles:u` and `cycles:k`.
fn counting<H: HostPmu>(host: H) -> Clocked<H> {
    let mut pmu = Clocked::new(fresh(), host, Policy::Flexible);
    pmu.wrmsr(SEL0, USER).unwrap();
    pmu.wrmsr(SEL1, KERNEL).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 3).unwrap();
    pmu
}

fn values<H: HostPmu>(pmu: &mut Clocked<H>) -> [u64; 2] {
    [0, 1].map(|i| pmu.rdpmc(i).unwrap())
}

/// The guest runs, and exits when it is asked to; `level` says where it is.
fn run_for<H: HostPmu>(pmu: &mut Clocked<H>, span: u64, mut level: impl FnMut() -> Level) {
    let mut left = span;
    while left > 0 {
        let step = pmu.next_deadline().map_or(left, |d| d.0.clamp(1, left));
        pmu.guest_ran(Nanos(step));
        if step < left && pmu.wants_level() {
            pmu.guest_was_at(level());
        }
        pmu.poll();
        left -= step;
    }
}

/// What a vCPU had in a second of user mode, restored each `span`.
fn a_second_of_user_mode<H: HostPmu>(host: impl Fn() -> H, span: u64) -> [u64; 2] {
    let mut pmu = counting(host());
    for _ in 0..1_000 * MS / span {
        run_for(&mut pmu, span, || Level::User);
        let bytes = pmu.save();
        pmu = Clocked::restore(fresh(), host(), Policy::Flexible, &bytes).unwrap();
    }
    values(&mut pmu)
}

#[test]
fn a_restore_keeps_what_was_learnt_of_the_guests_level() {
    let clock = || SoftwarePmu::new(RATE);
    let boxed = || alloc::boxed::Box::new(clock());
    let sum = || SumPmu::new(alloc::vec![clock(), clock()]);
    for span in [MS / 2, 4 * MS, 10 * MS] {
        for ([user, kernel], parts) in [
            (a_second_of_user_mode(clock, span), 1),
            (a_second_of_user_mode(boxed, span), 1),
            (a_second_of_user_mode(sum, span), 2),
        ] {
            let whole = parts * 2_500 * MS;
            // Before the first samples, time is the kernel's.
            assert!(kernel <= whole / 100, "each {span} ns: {user} {kernel}");
            let restores = parts * 1_000 * MS / span;
            assert!(user + kernel + 2 * restores >= whole, "{user} {kernel}");
            assert!(user + kernel <= whole, "{user} {kernel}");
        }
    }
}

/// Beside a twin that is saved at the same moments and goes on itself: the same
/// exits are asked for, and the counts differ by less than an event a restore.
#[test]
fn a_restored_clock_samples_as_one_that_was_kept() {
    let mut kept = counting(SoftwarePmu::new(RATE));
    let mut restored = counting(SoftwarePmu::new(RATE));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for restores in 1..=1_000 {
        for _ in 0..dice.roll(4) {
            let until = kept.next_deadline();
            assert_eq!(restored.next_deadline(), until);
            let step = until.map_or(MS, |d| d.0.max(1));
            let level = match dice.roll(3) {
                0 => Level::Kernel,
                _ => Level::User,
            };
            for pmu in [&mut kept, &mut restored] {
                pmu.guest_ran(Nanos(step));
                pmu.guest_was_at(level);
                pmu.poll();
            }
        }
        let between = Nanos(dice.roll(300_000));
        kept.guest_ran(between);
        restored.guest_ran(between);
        kept.save();
        let bytes = restored.save();
        let host = SoftwarePmu::new(RATE);
        restored = Clocked::restore(fresh(), host, Policy::Flexible, &bytes).unwrap();
        assert!(restored.save() == bytes, "and says the same again");
        for (kept, restored) in values(&mut kept).into_iter().zip(values(&mut restored)) {
            assert!(kept - restored <= restores, "{restores}: {kept} {restored}");
        }
    }
    let [user, kernel] = values(&mut kept);
    let share = user * 100 / (user + kernel);
    assert!((60..73).contains(&share), "two thirds: {share} %");
}
