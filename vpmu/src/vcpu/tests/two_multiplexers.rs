//! Two multiplexers, one on top of the other: a guest's kernel shares the counters that
//! it was told of among more events, and a host with fewer counters shares those. What
//! the guest's `perf stat` shows is compared with a host that has enough.
//!
//! The guest is Linux's: every 4 ms it stops all events, reads them, moves the first one
//! to the end of its list, and starts as many as it has counters, each on the counter that
//! it had if that is free.

use super::*;
use crate::rules::{CodesId, EventFilter, Rules};
use crate::x86::cpuid::Vendor;
use crate::x86::event::RawEvent;

const US: u64 = 1_000;
/// Counters that the guest was told of.
const TOLD: usize = 4;
/// The guest's turns, ns of its time.
const GUEST_TURN: u64 = 4_000 * US;
/// How finely events occur.
const STEP: u64 = 50 * US;
/// How long the guest's program runs.
const PROGRAM: u64 = 2_000_000 * US;

/// What the program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Each event at its rate, all the time.
    Steady,
    /// Two phases by turns, so long each, in which events are up to eight times as
    /// frequent as in the other.
    Phases(u64),
}

impl Program {
    /// Events of number `event` in a microsecond at `now`.
    fn rate(self, event: usize, now: u64) -> u64 {
        let base = 100 + 37 * event as u64;
        match self {
            Self::Steady => base,
            Self::Phases(length) => {
                let first = (now / length).is_multiple_of(2);
                if first == event.is_multiple_of(2) {
                    base * 8
                } else {
                    base
                }
            }
        }
    }
}

/// An event of the guest's `perf stat`.
#[derive(Clone, Copy, Debug, Default)]
struct GuestEvent {
    count: u64,
    enabled: u64,
    running: u64,
    counter: Option<u32>,
}

struct Guest {
    pmu: Pmu,
    program: Program,
    events: Vec<GuestEvent>,
    /// The order of turns.
    order: Vec<usize>,
    now: u64,
    /// What the host has not counted of a whole event yet.
    rests: Vec<u64>,
}

const fn code(event: usize) -> u64 {
    0x0100 | (0xd0 + event as u64)
}

impl Guest {
    fn new(program: Program, events: usize, host_counters: usize) -> Self {
        let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
        let host = SimPmu::quiet(host_counters, ArchEventSet::ALL);
        let rules = Rules {
            filter: EventFilter::All,
            codes: Some(CodesId::new(Vendor::Intel, 0x606a6, None)),
            ..Rules::from(Policy::Flexible)
        };
        Self {
            pmu: VcpuPmu::new(ArchPerfmon::new(config), host, rules),
            program,
            events: vec![GuestEvent::default(); events],
            order: (0..events).collect(),
            now: 0,
            rests: vec![0; events],
        }
    }

    /// Puts the first events of the order on counters. Linux: `x86_pmu_enable`.
    fn schedule_in(&mut self) {
        let on: Vec<usize> = self.order.iter().copied().take(TOLD).collect();
        let mut free: Vec<u32> = (0..).take(TOLD).collect();
        for event in &on {
            free.retain(|counter| self.events[*event].counter != Some(*counter));
        }
        for event in 0..self.events.len() {
            if !on.contains(&event) {
                self.events[event].counter = None;
            }
        }
        for event in on {
            let counter = self.events[event].counter.unwrap_or_else(|| free.remove(0));
            self.events[event].counter = Some(counter);
            let (n, sel) = (counter, 0x53_0000 | code(event));
            write(
                &mut self.pmu,
                &[(MsrIndex(0x4c1 + n), 0), (MsrIndex(0x186 + n), sel)],
            );
        }
        write(&mut self.pmu, &[(GLOBAL_CTRL, 0xf)]);
    }

    /// Stops all events and reads them. Linux: `x86_pmu_stop`.
    fn schedule_out(&mut self) {
        write(&mut self.pmu, &[(GLOBAL_CTRL, 0)]);
        for event in 0..self.events.len() {
            let Some(counter) = self.events[event].counter else {
                continue;
            };
            let (n, sel) = (counter, 0x13_0000 | code(event));
            write(&mut self.pmu, &[(MsrIndex(0x186 + n), sel)]);
            self.events[event].count += self.pmu.rdpmc(n).unwrap();
        }
    }

    /// The program runs for `span` on counters that stand as they are.
    fn run(&mut self, span: u64) {
        let end = self.now + span;
        while self.now < end {
            let deadline = self.pmu.next_deadline().map_or(STEP, |d| d.0.max(1));
            let step = (end - self.now).min(STEP).min(deadline);
            for event in 0..self.events.len() {
                let all = self.rests[event] + self.program.rate(event, self.now) * step;
                let raw = RawEvent::of_event_sel(code(event));
                self.pmu.host_mut().occur(raw, all / US);
                self.rests[event] = all % US;
            }
            self.pmu.guest_ran(Nanos(step));
            self.now += step;
            if self.pmu.host_mut().take_interrupt() || step == deadline {
                self.pmu.poll();
            }
        }
        for event in &mut self.events {
            event.enabled += span;
            event.running += if event.counter.is_some() { span } else { 0 };
        }
    }

    /// What `perf stat` shows at the end.
    fn perf_stat(self) -> (Vec<f64>, Totals) {
        self.perf_stat_with(GUEST_TURN, PROGRAM)
    }

    /// The same of a guest with other turns, and a program of this length.
    fn perf_stat_with(mut self, turn: u64, program: u64) -> (Vec<f64>, Totals) {
        while self.now < program {
            self.schedule_in();
            self.run(turn);
            self.schedule_out();
            let first = self.order.remove(0);
            self.order.push(first);
        }
        let scaled = |e: &GuestEvent| e.count as f64 * e.enabled as f64 / e.running as f64;
        (self.events.iter().map(scaled).collect(), self.pmu.totals())
    }
}

/// The largest error of an event, in percent of the count with enough counters.
fn worst(truth: &[f64], guest: Guest) -> (f64, Totals) {
    let (shown, totals) = guest.perf_stat();
    let off = shown
        .iter()
        .zip(truth)
        .map(|(shown, truth)| (shown / truth - 1.0) * 100.0);
    let worst = off.max_by(|a, b| a.abs().total_cmp(&b.abs()));
    (worst.unwrap_or_default(), totals)
}

const PROGRAMS: [Program; 3] = [
    Program::Steady,
    Program::Phases(50_000 * US),
    Program::Phases(13_000 * US),
];

/// DESIGN.md has the table that this prints.
#[test]
fn a_guest_that_multiplexes_on_a_host_that_multiplexes_is_right() {
    let mut bad = 0;
    for program in PROGRAMS {
        for events in [5, 8, 10] {
            let (truth, exact) = Guest::new(program, events, TOLD).perf_stat();
            assert_eq!((exact.starved, exact.estimated, exact.rotations), (0, 0, 0));
            for host_counters in [1, 2, 3] {
                let guest = Guest::new(program, events, host_counters);
                let (worst, totals) = worst(&truth, guest);
                let Totals {
                    starved, estimated, ..
                } = totals;
                std::println!(
                    "{program:?}: {events} events on {host_counters}: {worst:+.2} % \
                     starved={starved} estimated={estimated}"
                );
                bad += u32::from(worst.abs() > 2.0);
                assert!(
                    starved <= events as u64,
                    "nothing is known of a first turn alone"
                );
            }
        }
    }
    assert_eq!(bad, 0, "cells beyond 2 %");
}

/// The guest's turns are so short that most of its events have none on the host: what they
/// would have counted is estimated, and said to be.
#[test]
fn an_event_that_was_left_out_is_estimated_from_its_own_rate() {
    const SHORT: u64 = 200 * US;
    const PROGRAM: u64 = 300_000 * US;
    let guest = |host_counters| Guest::new(Program::Steady, 8, host_counters);
    let (truth, _) = guest(TOLD).perf_stat_with(SHORT, PROGRAM);
    let (shown, totals) = guest(1).perf_stat_with(SHORT, PROGRAM);
    for (event, (shown, truth)) in shown.iter().zip(&truth).enumerate() {
        let off = shown / truth - 1.0;
        assert!(
            off.abs() < 0.02,
            "event {event}: {shown} instead of {truth}"
        );
    }
    assert!(totals.estimated > 100, "{totals:?}");
    assert!(totals.starved < 10, "{totals:?}");
}
