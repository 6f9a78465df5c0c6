//! Saved states against golden files, one for each model and some for what the
//! models of a clock never hold: what a release wrote is read for ever, and means
//! the same.
//!
//! The files are hexadecimal text. A new version of the format gets a directory
//! of its own, and `UPDATE_STATES=1 cargo test -p vpmu --test saved_state` writes
//! what is missing in that of the present one. It overwrites nothing: a file of a
//! version that no release has written yet is deleted first, all others never
//! change.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod states;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use vpmu::guest::{
    ArchPerfmon, ArchPerfmonConfig, CoreType, GuestPmu, Model, ModelConfig, ModelKind,
};
use vpmu::host::HostPmu;
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::ids::MsrIndex;
use vpmu::state::{RestoreError, VERSION};
use vpmu::units::Nanos;
use vpmu::x86::cpuid::Vendor;
use vpmu::{CounterState, Policy, Times, VcpuPmu};

type Pmu = VcpuPmu<Model, SoftwarePmu>;

fn host() -> SoftwarePmu {
    SoftwarePmu::new(Khz(1_000_000))
}

/// Every model by its name, after RESET.
fn models() -> Vec<(&'static str, Model)> {
    let events = SoftwarePmu::SUPPORTED;
    let mut models: Vec<_> = ModelKind::ALL
        .map(|kind| {
            let config = ModelConfig::new(kind, kind.shape(), events).unwrap();
            (kind.name(), Model::new(config))
        })
        .into();
    for (name, core) in [
        ("hybrid-core", CoreType::Core),
        ("hybrid-atom", CoreType::Atom),
    ] {
        let config = ArchPerfmonConfig::hybrid(core, events);
        models.push((name, Model::Intel(ArchPerfmon::new(config))));
    }
    models
}

/// A guest that samples: one counter has wrapped and its PMI waits, one counts
/// on, one is stopped, and one counts nothing that a host has.
fn busy(model: Model) -> Pmu {
    let mut pmu = Pmu::new(model, host(), Policy::Flexible);
    let intel = pmu.model().identity().vendor == Vendor::Intel;
    let (cycles, sel, counter) = if intel {
        (0x53_003c, 0x186, 0xc1)
    } else {
        (0x53_0076, 0xc001_0000, 0xc001_0004)
    };
    // Registers that a model lacks refuse the write.
    let mut write = |msr: u32, value: u64| {
        let _ = pmu.wrmsr(MsrIndex(msr), value);
    };
    for (ctrl, all) in [(0x38f, 0x3_0000_000f), (0xc000_0301, 0xf)] {
        write(ctrl, 0);
        write(counter, u64::MAX - 999);
        write(counter + 1, 0x1234_5678);
        write(sel, cycles);
        write(sel + 1, cycles & !(1 << 20));
        write(sel + 2, 0x53_01d1);
        write(sel + 3, cycles & !(1 << 22));
        write(0x38d, 0xb0);
        write(0x30a, 0x7654_3210);
        write(0x1d9, 3);
        write(0x329, 0x0102_0304_0506_0708);
        write(ctrl, all);
    }
    states::ran(&mut pmu, Nanos(2_345), true);
    pmu
}

fn directory(version: u32) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/data/state/v{version}"))
}

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn golden(version: u32, name: &str) -> Vec<u8> {
    let path = directory(version).join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.as_chunks::<2>().0.iter();
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// All that a guest can read of a PMU.
fn registers<H: HostPmu>(pmu: &mut VcpuPmu<Model, H>) -> Vec<(MsrIndex, u64)> {
    let all: Vec<_> = pmu.model().registers().map(|(msr, _)| msr).collect();
    all.into_iter()
        .map(|msr| (msr, pmu.rdmsr(msr).unwrap()))
        .collect()
}

/// Compares what is written today with what was written then.
fn compare(name: &str, bytes: &[u8]) {
    if std::env::var_os("UPDATE_STATES").is_some() {
        std::fs::create_dir_all(directory(VERSION)).unwrap();
        // Never in place: a file of a version that is out must not change.
        let path = directory(VERSION).join(format!("{name}.hex"));
        match std::fs::File::create_new(&path) {
            Ok(mut file) => file.write_all(to_text(bytes).as_bytes()).unwrap(),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    assert!(
        bytes == golden(VERSION, name),
        "{name}: the format has changed; it needs a new version"
    );
}

#[test]
fn what_is_written_today_is_what_was_written_then() {
    for (name, model) in models() {
        compare(name, &busy(model).save());
    }
    for scenario in states::all() {
        compare(scenario.name, &scenario.run().save());
    }
}

fn are_distinct(numbers: &[u64]) -> bool {
    numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len()
}

/// A golden file in which two numbers are the same does not see them change
/// places.
#[test]
fn the_golden_files_tell_their_numbers_apart() {
    const EVENT: usize = 45;
    let mut forms = BTreeSet::new();
    for scenario in states::all() {
        let name = scenario.name;
        let bytes = golden(VERSION, name);
        assert_eq!(bytes[bytes.len() - 4 * EVENT - 1], 4, "{name}: four events");
        for event in bytes.rchunks_exact(EVENT).take(4) {
            let word = |at: usize| u64::from_le_bytes(*event[at..].first_chunk().unwrap());
            let numbers = [12, 20, 28, 36].map(word);
            if name == "turns" {
                assert!(are_distinct(&numbers), "{name}: {numbers:?}");
            }
            let [state, kind, levels, starved] = [1, 2, 11, 44].map(|at| event[at]);
            forms.extend([("state", state), ("kind", kind), ("levels", levels)]);
            forms.insert(("starved", starved));
        }
        let totals = totals(&scenario.run());
        let some: Vec<u64> = totals.into_iter().filter(|total| *total != 0).collect();
        match name {
            "turns" => assert!(some.len() == 10 && are_distinct(&some), "{totals:?}"),
            "errors" => assert!(some.len() > 5, "{totals:?}"),
            _ => assert!(some.len() > 3, "{totals:?}"),
        }
    }
    let all = [
        ("state", 0..3),
        ("kind", 0..2),
        ("levels", 1..4),
        ("starved", 0..2),
    ];
    for (what, values) in all {
        for value in values {
            assert!(forms.contains(&(what, value)), "{what} {value}");
        }
    }
}

fn totals(pmu: &states::Pmu) -> [u64; 12] {
    let t = pmu.totals();
    [
        t.overflows,
        t.skid,
        t.longest_skid,
        t.pmis_injected,
        t.pmis_suppressed,
        t.not_counted,
        t.scaled_reads,
        t.pinned_errors,
        t.starved,
        t.rotations,
        t.host_revocations,
        t.estimated,
    ]
}

#[test]
fn states_of_counters_that_compete_are_read_and_mean_the_same() {
    for version in 1..=VERSION {
        for scenario in states::all() {
            let name = scenario.name;
            let bytes = golden(version, name);
            let mut restored = scenario.restore(&bytes).unwrap();
            let mut original = scenario.run();
            assert!(original.save() == restored.save(), "{name}");
            assert_eq!(registers(&mut restored), registers(&mut original), "{name}");
            assert_eq!(restored.totals(), original.totals(), "{name}");
            // What is in error has the times of its last read.
            let views = |pmu: &states::Pmu| {
                let mut views: Vec<_> = pmu.counters().collect();
                for view in &mut views {
                    if view.state == CounterState::Error {
                        view.times = Times::default();
                    }
                }
                views
            };
            assert_eq!(views(&restored), views(&original), "{name}");
        }
    }
}

#[test]
fn every_version_is_read_and_means_the_same() {
    for version in 1..=VERSION {
        for (name, model) in models() {
            let bytes = golden(version, name);
            let mut restored = Pmu::restore(model.clone(), host(), Policy::Flexible, &bytes)
                .unwrap_or_else(|error| panic!("version {version}, {name}: {error}"));
            let mut original = busy(model);
            assert_eq!(registers(&mut restored), registers(&mut original), "{name}");
            for pmu in [&mut restored, &mut original] {
                assert!(states::deliver(pmu), "{name}: the PMI waits, with a cause");
                states::ran(pmu, Nanos(1_000_000), true);
            }
            assert_eq!(registers(&mut restored), registers(&mut original), "{name}");
            assert_eq!(restored.totals(), original.totals(), "{name}");
        }
    }
}

#[test]
fn a_later_version_is_refused_by_its_number() {
    let (name, model) = models().swap_remove(1);
    let mut bytes = golden(VERSION, name);
    bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let error = Pmu::restore(model, host(), Policy::Flexible, &bytes).unwrap_err();
    assert_eq!(error, RestoreError::Version { found: VERSION + 1 });
    let text = error.to_string();
    assert!(text.contains("accepted: 1 to 1"), "{text}");
}
