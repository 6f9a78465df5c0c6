//! A guest cannot tell a host whose stopped events keep their counters from one whose events
//! stop: random programs read the same and get the same PMIs on both.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
use vpmu::host::HostPmu;
use vpmu::host::held::Held;
use vpmu::host::sim::SimPmu;
use vpmu::ids::MsrIndex;
use vpmu::units::Nanos;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::msr::{GLOBAL_CTRL, GLOBAL_OVF_CTRL, GLOBAL_STATUS};
use vpmu::{BeforeEntry, Policy, Ran, VcpuPmu};

const COUNTERS: u32 = 4;
const EVENTS: [u64; 4] = [0x53_003c, 0x53_00c0, 0x53_00c4, 0];
const KINDS: [ArchEvent; 3] = [
    ArchEvent::Cycles,
    ArchEvent::Instructions,
    ArchEvent::Branches,
];

/// Xorshift (Marsaglia 2003).
struct Dice(u32);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % n
    }
}

/// What a guest does, or its host.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(MsrIndex, u64),
    Read(MsrIndex),
    /// Runs through so many of each event; the owner's timer ends the run, or the guest.
    Run(u64, bool),
}

impl Step {
    fn random(dice: &mut Dice) -> Self {
        let n = dice.below(COUNTERS);
        match dice.below(10) {
            0 => Self::Write(MsrIndex(0x186 + n), EVENTS[dice.below(4) as usize]),
            1 => Self::Write(MsrIndex(0x4c1 + n), u64::from(dice.below(1 << 16))),
            2 => Self::Write(
                MsrIndex(0x4c1 + n),
                (1 << 48) - 1 - u64::from(dice.below(5_000)),
            ),
            3 | 4 => Self::Write(GLOBAL_CTRL, [0, 0xf][dice.below(2) as usize]),
            5 => Self::Write(GLOBAL_OVF_CTRL, 0xf),
            6 => Self::Read(MsrIndex(0x4c1 + n)),
            7 => Self::Read(GLOBAL_STATUS),
            _ => Self::Run(u64::from(dice.below(2_000)), dice.below(4) == 0),
        }
    }
}

/// What the guest saw of a step.
fn done<H: HostPmu>(
    pmu: &mut VcpuPmu<ArchPerfmon, H>,
    sim: impl Fn(&mut H) -> &mut SimPmu,
    step: Step,
) -> (Option<u64>, bool) {
    let read = match step {
        Step::Write(msr, value) => {
            pmu.wrmsr(msr, value).unwrap();
            None
        }
        Step::Read(msr) => Some(pmu.rdmsr(msr).unwrap()),
        Step::Run(n, interrupted) => {
            let host = sim(pmu.host_mut());
            KINDS.iter().for_each(|kind| host.occur(*kind, n));
            // Which overflows the host signals is not the guest's to see: it looks anyway.
            host.take_interrupt();
            pmu.after_run(Ran {
                span: Nanos(n),
                interrupted,
                level: None,
            });
            None
        }
    };
    let got_pmi = match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => {
            let _ = pmi.delivered();
            true
        }
        BeforeEntry::Ready(_) => false,
    };
    (read, got_pmi)
}

#[test]
fn a_guest_cannot_tell() {
    for seed in 1..=40 {
        let mut dice = Dice(seed);
        let model = || {
            let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
            ArchPerfmon::new(config)
        };
        let host = || SimPmu::quiet(8, ArchEventSet::ALL);
        let mut stops = VcpuPmu::new(model(), host(), Policy::Flexible);
        let mut holds = VcpuPmu::new(model(), Held::new(host()), Policy::Flexible);
        for n in 0..3_000 {
            let step = Step::random(&mut dice);
            let due = done(&mut stops, |host| host, step);
            let got = done(&mut holds, Held::inner_mut, step);
            assert_eq!(got, due, "seed {seed}, step {n}: {step:?}");
        }
        assert_eq!(holds.totals(), stops.totals(), "seed {seed}");
    }
}
