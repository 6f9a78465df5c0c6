//! What a guest does to its PMU: RDMSR, WRMSR, RDPMC, running, PMIs. One PMU is
//! saved and restored now and then, its twin is not: where the host has enough
//! counters, both answer the same.
//! `cargo +nightly fuzz run msr -s none` in `vpmu`.
#![no_main]

mod guest;

use guest::{Host, Pmu, Setup, check, check_register, msr, same};
use libfuzzer_sys::fuzz_target;
use vpmu::guest::{Arming, GuestPmu, intercepted};
use vpmu::ids::MsrIndex;
use vpmu::state::RestoreError;
use vpmu::units::Nanos;
use vpmu::x86::event::ArchEvent;
use vpmu::{BeforeEntry, Policy, Ran};

fuzz_target!(|data: &[u8]| {
    let Some((setup, ops)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut twins = Twins::new(Setup::of(*setup));
    for op in ops.as_chunks::<11>().0 {
        twins.step(op);
        check(&mut twins.saved.0);
        check(&mut twins.kept.0);
    }
    twins.finish();
});

struct Twins {
    setup: Setup,
    exact: bool,
    saved: (Pmu, Host),
    kept: (Pmu, Host),
    /// PMIs that may still come to the twin that is kept.
    armings: u64,
    pmis: u64,
}

impl Twins {
    fn new(setup: Setup) -> Self {
        let (saved, kept) = (setup.pmu(), setup.pmu());
        Self {
            exact: setup.is_exact(),
            setup,
            saved,
            kept,
            armings: 1,
            pmis: 0,
        }
    }

    fn step(&mut self, op: &[u8; 11]) {
        let [kind, index, form, value @ ..] = *op;
        let value = shaped(form, u64::from_le_bytes(value));
        match kind % 16 {
            0..=5 => self.write(msr(index), value),
            6 | 7 => self.read(msr(index)),
            8 => self.rdpmc(if index & 64 == 0 {
                index.into()
            } else {
                0x4000_0000 | u32::from(index & 7)
            }),
            9..=11 => self.run(index, value),
            12 => self.pmi(index),
            13 => self.restore(),
            14 => self.both(interrupt),
            _ if index == 0 => self.reset(),
            _ => self.leave(index),
        }
    }

    fn both(&mut self, f: impl Fn(&mut Pmu)) {
        f(&mut self.saved.0);
        f(&mut self.kept.0);
    }

    fn write(&mut self, msr: MsrIndex, value: u64) {
        let found = self.kept.0.decode(msr);
        let arms = found.is_ok_and(|access| access.arming(value) != Arming::No);
        let before = self.kept.0.model().rdmsr(msr);
        let ours = self.saved.0.wrmsr(msr, value);
        let result = self.kept.0.wrmsr(msr, value);
        assert_eq!(ours, result, "WRMSR {msr} {value:#x}");
        self.armings += u64::from(arms && result.is_ok());
        if let (Ok(_), Ok(after)) = (before, self.kept.0.model().rdmsr(msr)) {
            check_register(self.kept.0.model(), msr, after);
        }
    }

    fn read(&mut self, msr: MsrIndex) {
        let value = self.kept.0.rdmsr(msr);
        let ours = self.saved.0.rdmsr(msr);
        assert_eq!(ours.is_ok(), value.is_ok(), "RDMSR {msr}");
        if let Ok(value) = value {
            check_register(self.kept.0.model(), msr, value);
        }
        assert!(
            !self.exact || ours == value,
            "RDMSR {msr}: {ours:x?} and {value:x?}"
        );
    }

    fn rdpmc(&mut self, ecx: u32) {
        let value = self.kept.0.rdpmc(ecx);
        let ours = self.saved.0.rdpmc(ecx);
        assert_eq!(ours.is_some(), value.is_some(), "RDPMC {ecx:#x}");
        assert!(
            !self.exact || ours == value,
            "RDPMC {ecx:#x}: {ours:x?} and {value:x?}"
        );
    }

    /// The guest runs, some events occur, the host interrupts it at an overflow.
    fn run(&mut self, index: u8, value: u64) {
        let span = value & 0xff_ffff;
        let event = ArchEvent::ALL[usize::from(index & 7)];
        let mut interrupted = index & 8 != 0;
        for (pmu, host) in [&mut self.saved, &mut self.kept] {
            host.0.borrow_mut().occur(ArchEvent::Cycles, span);
            host.0.borrow_mut().occur(event, value >> 40);
            pmu.after_run(Ran {
                span: Nanos(span),
                ..Ran::default()
            });
            interrupted |= host.0.borrow_mut().take_interrupt();
        }
        if index & 16 != 0 {
            self.restore();
        }
        if interrupted {
            self.both(interrupt);
        }
    }

    fn pmi(&mut self, index: u8) {
        if index & 16 != 0 {
            self.restore();
        }
        let ours = answer(&mut self.saved.0, index);
        let due = answer(&mut self.kept.0, index);
        assert!(!self.exact || ours == due, "a PMI");
        // One that is postponed comes again.
        self.pmis += u64::from(due && index & 3 != 1);
        let most = if self.kept.0.model().masks_pmi() {
            self.armings
        } else {
            self.kept.0.totals().overflows
        };
        assert!(self.pmis <= most, "one PMI an arming (G-401), or an overflow (G-304)");
        self.armings += u64::from(due && index & 3 == 0);
    }

    fn restore(&mut self) {
        let bytes = self.saved.0.save();
        self.saved = match self.setup.restore(&bytes) {
            Ok(restored) => restored,
            // The host has fewer counters than was noticed.
            Err(RestoreError::TooFewCounters { .. })
                if !self.exact && self.setup.rules.policy == Policy::Pinned =>
            {
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let again = self.saved.0.save();
        if self.exact {
            same(&bytes, &again);
        }
        // A restore gives counters that are free to those that wait: once.
        let second = self
            .setup
            .restore(&again)
            .unwrap_or_else(|error| panic!("{error}"));
        let (mut second, _) = second;
        same(&again, &second.save());
    }

    fn reset(&mut self) {
        self.both(Pmu::reset);
        self.armings += 1;
    }

    /// Other users of the host come and go.
    fn leave(&mut self, index: u8) {
        if self.setup.is_exact() {
            return;
        }
        self.setup.host_counters = usize::from(index % 7);
        for (_, host) in [&self.saved, &self.kept] {
            host.0.borrow_mut().leave(self.setup.host_counters);
        }
    }

    fn finish(&mut self) {
        for run in intercepted() {
            for index in run.indices().take(16) {
                self.read(index);
            }
        }
        if self.exact {
            assert_eq!(self.saved.0.totals(), self.kept.0.totals());
        }
    }
}

/// The deadline ends a run.
fn interrupt(pmu: &mut Pmu) {
    pmu.after_run(Ran {
        interrupted: true,
        ..Ran::default()
    });
}

/// Whether there was a PMI, which met a masked LVTPC, a guest in its NMI handler, or
/// the guest.
fn answer(pmu: &mut Pmu, index: u8) -> bool {
    let BeforeEntry::Pmi(pmi) = pmu.before_entry() else {
        return false;
    };
    let _ = match index & 3 {
        0 => pmi.dropped(),
        1 => pmi.postponed(),
        _ => pmi.delivered(),
    };
    true
}

/// Values that do something are rare among all: selects that count, counters
/// that are about to wrap, masks of counters.
fn shaped(form: u8, value: u64) -> u64 {
    const CODES: [u64; 8] = [0x3c, 0xc0, 0x76, 0x412e, 0xc4, 0x1d1, 0x1_0000_0120, 0x13c];
    match form % 6 {
        0 => CODES[(value & 7) as usize] | 0x53_0000,
        1 => (1 << 48) - 1 - (value & 0xf_ffff),
        2 => value & 0xff | (value >> 8 & 0xf) << 32,
        3 => value & 0xffff,
        4 => 1 << (value & 63),
        _ => value,
    }
}
