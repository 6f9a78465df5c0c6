//! The vCPU's PMU on a scripted host: counts, interrupts and host calls.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::guest::{ArchPerfmon, ArchPerfmonConfig, Encoding};
use crate::host::HostEventId;
use crate::host::sim::{Call, SimPmu};
use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet};
use crate::x86::msr::{GLOBAL_CTRL, GLOBAL_OVF_CTRL, GLOBAL_STATUS};

const SEL0: MsrIndex = MsrIndex(0x186);
const SEL1: MsrIndex = MsrIndex(0x187);
const PMC0: MsrIndex = MsrIndex(0x4c1);
const PMC1: MsrIndex = MsrIndex(0x4c2);
const CYCLES: u64 = 0x53_003c;
const INSTRUCTIONS: u64 = 0x53_00c0;
const MASK: u64 = (1 << 48) - 1;

type Pmu = VcpuPmu<ArchPerfmon, SimPmu>;

fn pmu_with(host_counters: usize) -> Pmu {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    VcpuPmu::new(
        ArchPerfmon::new(config),
        SimPmu::new(host_counters, ArchEventSet::ALL),
        Policy::Flexible,
    )
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// Takes a PMI that is on its way and answers nothing yet.
    fn take_pmi(&mut self) -> bool {
        let came = self.pmi.is_on_its_way();
        self.pmi.delivered();
        came
    }

    /// Whether a PMI that is on its way would be handed out.
    fn pmi_has_cause(&self) -> bool {
        self.model.interrupt_due()
    }
}

/// Guest writes in their order; none may fault.
fn write(pmu: &mut Pmu, writes: &[(MsrIndex, u64)]) {
    for (msr, value) in writes {
        pmu.wrmsr(*msr, *value).unwrap();
    }
}

fn states<G: GuestPmu>(pmu: &VcpuPmu<G, SimPmu>, n: usize) -> Vec<CounterState> {
    pmu.counters().map(|c| c.state).take(n).collect()
}

/// The guest runs through `n` cycles; the host interrupts it at an overflow.
fn run(pmu: &mut Pmu, n: u64) {
    pmu.host_mut().occur(ArchEvent::Cycles, n);
    pmu.guest_ran(Nanos(n));
    if pmu.host_mut().take_interrupt() {
        pmu.poll();
    }
}

#[test]
fn counts_only_between_enable_and_disable() {
    let mut pmu = pmu_with(4);
    run(&mut pmu, 5);
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (PMC0, 100), (SEL0, CYCLES)]);
    run(&mut pmu, 5);
    assert_eq!(pmu.rdmsr(PMC0), Ok(100));
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    run(&mut pmu, 7);
    assert_eq!(pmu.rdpmc(0), Some(107), "a live read");
    run(&mut pmu, 3);
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    run(&mut pmu, 1_000);
    for _ in 0..3 {
        assert_eq!(pmu.rdpmc(0), Some(110), "G-103");
    }
}

#[test]
fn a_stopped_counter_keeps_its_host_event_for_the_next_start() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[(GLOBAL_CTRL, 0), (SEL0, CYCLES), (GLOBAL_CTRL, 0xf)],
    );
    run(&mut pmu, 10);
    pmu.host_mut().take_calls();
    write(
        &mut pmu,
        &[(GLOBAL_CTRL, 0), (SEL0, CYCLES & !(1 << 22)), (PMC0, 5)],
    );
    write(&mut pmu, &[(SEL0, CYCLES), (GLOBAL_CTRL, 0xf)]);
    let id = HostEventId(0);
    assert_eq!(
        pmu.host_mut().take_calls(),
        [
            Call::Read(id),
            Call::Stop(id),
            Call::Start(id, Count(MASK - 4))
        ],
        "G-102: one stop, one start, no close or open"
    );
    write(
        &mut pmu,
        &[(GLOBAL_CTRL, 0), (SEL0, INSTRUCTIONS), (GLOBAL_CTRL, 0xf)],
    );
    assert!(
        pmu.host_mut().take_calls().contains(&Call::Close(id)),
        "another event"
    );
}

#[test]
fn an_overflow_raises_status_then_one_pmi() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[
            (GLOBAL_CTRL, 0),
            (PMC0, MASK - 9),
            (SEL0, CYCLES),
            (GLOBAL_CTRL, 0xf),
        ],
    );
    run(&mut pmu, 9);
    assert!(!pmu.take_pmi());
    run(&mut pmu, 4);
    assert_eq!(
        pmu.rdmsr(GLOBAL_STATUS),
        Ok(1),
        "status is visible with the PMI (G-404)"
    );
    assert!(pmu.take_pmi());
    assert!(!pmu.take_pmi(), "once");
    assert_eq!(pmu.rdpmc(0), Some(3), "skid is shown");
    assert_eq!((pmu.totals().skid, pmu.totals().longest_skid), (3, 3));
}

/// G-401: a second overflow in the handler sets its status and no NMI.
#[test]
fn at_most_one_pmi_for_each_arming() {
    let mut pmu = pmu_with(4);
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (PMC0, MASK), (SEL0, CYCLES)]);
    write(
        &mut pmu,
        &[(PMC1, MASK - 4), (SEL1, CYCLES), (GLOBAL_CTRL, 0xf)],
    );
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    run(&mut pmu, 4);
    assert!(!pmu.take_pmi(), "not armed");
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(3));
    write(&mut pmu, &[(GLOBAL_OVF_CTRL, 3)]);
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(0), "G-104");
    write(&mut pmu, &[(PMC0, MASK), (GLOBAL_CTRL, 0xf)]);
    assert!(!pmu.take_pmi());
    run(&mut pmu, 1);
    assert!(pmu.take_pmi(), "armed again");
}

#[test]
fn a_status_that_is_still_set_interrupts_at_the_next_arming() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[
            (GLOBAL_CTRL, 0),
            (PMC0, MASK),
            (SEL0, CYCLES),
            (GLOBAL_CTRL, 0xf),
        ],
    );
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (GLOBAL_CTRL, 0xf)]);
    assert!(pmu.take_pmi(), "G-402");
}

/// G-401 and G-402 hold for a write that changes nothing else.
#[test]
fn a_write_of_the_same_value_arms() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[(PMC0, MASK), (SEL0, CYCLES), (GLOBAL_CTRL, 0xf)],
    );
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    assert!(pmu.take_pmi(), "its status is still set");
    write(&mut pmu, &[(GLOBAL_OVF_CTRL, 1), (PMC0, MASK)]);
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    write(&mut pmu, &[(GLOBAL_OVF_CTRL, 1), (GLOBAL_CTRL, 0xf)]);
    let global_ctrl = pmu.decode(GLOBAL_CTRL).unwrap();
    assert!(pmu.changes_nothing(global_ctrl, 0xf));
    assert!(!pmu.changes_nothing(global_ctrl, 0xe));
}

/// G-404: the write that stops a counter finds the wrap; what the host signals
/// later is stale.
#[test]
fn a_wrap_that_the_stop_finds_is_raised_with_it_and_never_again() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[
            (GLOBAL_CTRL, 0),
            (PMC0, MASK),
            (SEL0, CYCLES),
            (GLOBAL_CTRL, 0xf),
        ],
    );
    pmu.host_mut().occur(ArchEvent::Cycles, 2);
    pmu.guest_ran(Nanos(2));
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    assert!(pmu.take_pmi());
    assert!(
        pmu.host_mut().take_interrupt(),
        "the host's signal arrives late"
    );
    pmu.poll();
    assert!(!pmu.take_pmi());
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(1));
}

#[test]
fn a_refused_write_loses_no_overflow() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[
            (GLOBAL_CTRL, 0),
            (PMC0, MASK),
            (SEL0, CYCLES),
            (GLOBAL_CTRL, 0xf),
        ],
    );
    pmu.host_mut().occur(ArchEvent::Cycles, 2);
    pmu.guest_ran(Nanos(2));
    assert_eq!(
        pmu.wrmsr(GLOBAL_CTRL, 1 << 63),
        Err(MsrError::InvalidAccess)
    );
    assert_eq!(pmu.rdpmc(0), Some(1), "and the counter runs on");
    run(&mut pmu, 1);
    assert_eq!(pmu.rdpmc(0), Some(2));
    assert!(pmu.take_pmi());
}

#[test]
fn a_masked_pmi_is_gone_and_the_next_overflow_interrupts() {
    let mut pmu = pmu_with(4);
    write(
        &mut pmu,
        &[
            (GLOBAL_CTRL, 0),
            (PMC0, MASK),
            (SEL0, CYCLES),
            (GLOBAL_CTRL, 0xf),
        ],
    );
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    pmu.pmi_was_dropped();
    assert!(!pmu.take_pmi());
    write(&mut pmu, &[(PMC0, MASK)]);
    run(&mut pmu, 1);
    assert!(pmu.take_pmi());
    pmu.pmi_was_delivered();
    assert_eq!(
        pmu.totals(),
        Totals {
            overflows: 2,
            pmis_injected: 1,
            pmis_suppressed: 1,
            ..Totals::default()
        }
    );
}

#[test]
fn a_running_counter_may_be_rewritten() {
    let mut pmu = pmu_with(4);
    write(&mut pmu, &[(SEL0, CYCLES), (GLOBAL_CTRL, 0xf)]);
    run(&mut pmu, 50);
    write(&mut pmu, &[(PMC0, MASK - 2)]);
    run(&mut pmu, 3);
    assert!(pmu.take_pmi(), "the distance is the new one");
    assert_eq!(pmu.rdpmc(0), Some(0));
}

#[test]
fn what_is_not_counted_is_said() {
    let mut pmu = pmu_with(1);
    let raw = 0x53_01d1;
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (SEL0, CYCLES)]);
    write(&mut pmu, &[(SEL1, raw), (GLOBAL_CTRL, 0xf)]);
    let encoding = Encoding::Raw(crate::x86::regs::EventSel::from_bits(raw));
    assert_eq!(
        states(&pmu, 2),
        [CounterState::Counting, CounterState::NotBacked(encoding)]
    );
    assert_eq!(pmu.totals().not_counted, 1);
    assert_eq!(pmu.rdpmc(1), Some(0));
}

#[test]
fn reset_leaves_no_host_event() {
    let mut pmu = pmu_with(4);
    write(&mut pmu, &[(SEL0, CYCLES), (GLOBAL_CTRL, 0xf)]);
    pmu.reset();
    assert_eq!(pmu.host_mut().open_events(), 0);
    assert_eq!(pmu.rdmsr(GLOBAL_CTRL), Ok(0xf));
    assert_eq!(pmu.rdmsr(SEL0), Ok(0));
}

mod contention;
mod decode;
mod entry;
mod freeze;
mod monitors;
mod pmi;
mod saved;
mod saved_levels;
mod taken;
mod twins;
mod two_multiplexers;
mod against_a_naive_model {
    //! A PMU that counts every event at once, and whose interrupt line is
    //! looked at after each step, must agree at every step.

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(MsrIndex, u64),
        Run(ArchEvent, u64),
        Read(u32),
    }

    #[derive(Default)]
    struct Naive {
        sel: [u64; 2],
        value: [u64; 2],
        global: u64,
        status: u64,
        masked: bool,
        pmis: u64,
    }

    impl Naive {
        fn interrupt(&mut self) {
            if !self.masked {
                self.masked = true;
                self.pmis += 1;
            }
        }

        fn write(&mut self, msr: MsrIndex, value: u64) {
            match msr {
                SEL0 => self.sel[0] = value,
                SEL1 => self.sel[1] = value,
                PMC0 => self.value[0] = value,
                PMC1 => self.value[1] = value,
                GLOBAL_OVF_CTRL => self.status &= !value,
                GLOBAL_CTRL => self.global = value,
                other => panic!("{other} is not in the strategy"),
            }
            let is_global = [GLOBAL_OVF_CTRL, GLOBAL_CTRL].contains(&msr);
            if is_global && value == 0 {
                return;
            }
            self.masked = false;
            let int = |i: usize| self.status >> i & self.sel[i] >> 20 & 1 == 1;
            if is_global && (int(0) || int(1)) {
                self.interrupt();
            }
        }

        fn run(&mut self, event: ArchEvent, n: u64) {
            let code = if event == ArchEvent::Cycles {
                0x3c
            } else {
                0xc0
            };
            for i in 0..2 {
                let on = self.global >> i & self.sel[i] >> 22 & 1 == 1;
                if on && self.sel[i] & 0xffff == code {
                    self.value[i] += n;
                    if self.value[i] > MASK {
                        self.value[i] &= MASK;
                        self.status |= 1 << i;
                        if self.sel[i] >> 20 & 1 == 1 {
                            self.interrupt();
                        }
                    }
                }
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let sel = prop_oneof![Just(0), Just(CYCLES), Just(INSTRUCTIONS), Just(0x43_003c)];
        let value = prop_oneof![0..20_u64, MASK - 20..=MASK];
        let event = prop_oneof![Just(ArchEvent::Cycles), Just(ArchEvent::Instructions)];
        prop_oneof![
            (prop_oneof![Just(SEL0), Just(SEL1)], sel).prop_map(|(m, v)| Step::Write(m, v)),
            (prop_oneof![Just(PMC0), Just(PMC1)], value).prop_map(|(m, v)| Step::Write(m, v)),
            prop_oneof![Just(0_u64), Just(1), Just(3)].prop_map(|v| Step::Write(GLOBAL_CTRL, v)),
            (0..4_u64).prop_map(|v| Step::Write(GLOBAL_OVF_CTRL, v)),
            (event, 1..15_u64).prop_map(|(e, n)| Step::Run(e, n)),
            (0..2_u32).prop_map(Step::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_step_agrees(steps in prop::collection::vec(step(), 1..80)) {
            let mut pmu = pmu_with(2);
            let mut naive = Naive { global: 0xf, ..Naive::default() };
            let mut pmis = 0;
            for step in steps {
                match step {
                    Step::Write(msr, value) => {
                        pmu.wrmsr(msr, value).unwrap();
                        naive.write(msr, value);
                    }
                    Step::Run(event, n) => {
                        naive.run(event, n);
                        pmu.host_mut().occur(event, n);
                        pmu.guest_ran(Nanos(n));
                        if pmu.host_mut().take_interrupt() {
                            pmu.poll();
                        }
                    }
                    Step::Read(i) => {
                        prop_assert_eq!(pmu.rdpmc(i), Some(naive.value[i as usize]));
                    }
                }
                pmis += u64::from(pmu.take_pmi());
                prop_assert_eq!(pmis, naive.pmis);
                prop_assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(naive.status));
            }
            let values = vec![pmu.rdpmc(0).unwrap(), pmu.rdpmc(1).unwrap()];
            prop_assert_eq!(values, naive.value.to_vec());
        }
    }
}
