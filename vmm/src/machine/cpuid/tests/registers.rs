//! What CPUID announces is in the rows of the guest's registers, and what is in the
//! rows is announced: the set of registers is read out of the finished table as the
//! manuals say, and compared with the model.

use std::collections::BTreeSet;

use vpmu::guest::{ArchPerfmonConfig, GuestPmu, Model, ModelConfig, ModelKind, Shape};
use vpmu::ids::MsrIndex;
use vpmu::uncore::{Power, PowerForm, UncoreModel};
use vpmu::x86::event::ArchEventSet;
use vpmu::x86::msr::PERF_CAPABILITIES;

use super::*;

type Registers = BTreeSet<u32>;

/// `count` registers from `first` on, `step` apart.
fn run(first: u32, step: usize, count: u32) -> impl Iterator<Item = u32> {
    (first..).step_by(step).take(count as usize)
}

const fn bit(word: u32, n: u32) -> bool {
    word >> n & 1 != 0
}

/// The registers of features of Intel's that no model has (SDM vol. 4): debug store,
/// processor trace, last branch records, leaf 23H's.
fn intel_features_of_none(table: &[CpuidEntry]) -> Registers {
    let (leaf1, leaf7) = (find(table, 1, 0), find(table, 7, 0));
    let extended = table.iter().find(|e| e.leaf == 7 && e.subleaf == 1);
    let mut all = Registers::new();
    for (there, register) in [
        (bit(leaf1.edx, 21) || bit(leaf1.ecx, 2), 0x600),
        (bit(leaf7.ebx, 25), 0x570),
        (bit(leaf7.edx, 19), 0x14ce),
        (extended.is_some_and(|e| bit(e.eax, 8)), 0x1900),
    ] {
        all.extend(there.then_some(register));
    }
    all
}

/// SDM vol. 3B, "Architectural Performance Monitoring". `capabilities` is the value of
/// IA32_PERF_CAPABILITIES.
fn intel(table: &[CpuidEntry], capabilities: u64) -> Registers {
    let leaf = find(table, 0xa, 0);
    let version = leaf.eax & 0xff;
    let gp = leaf.eax >> 8 & 0xff;
    let mut all = intel_features_of_none(table);
    // Every CPU of family 6 has DEBUGCTL.
    all.insert(0x1d9);
    all.extend(run(0x186, 1, gp).chain(run(0xc1, 1, gp)));
    if bit(find(table, 1, 0).ecx, 15) {
        all.insert(PERF_CAPABILITIES.0);
        if capabilities >> 13 & 1 != 0 {
            all.extend(run(0x4c1, 1, gp));
        }
    }
    if version >= 2 {
        all.extend(run(0x38d, 1, 4));
    }
    if version >= 4 {
        all.extend(run(0x391, 1, 2));
    }
    let bitmap = if version >= 5 { leaf.ecx } else { 0 };
    let fixed = (0..32).filter(|i| *i < (leaf.edx & 0x1f) || bit(bitmap, *i));
    all.extend(fixed.map(|i| 0x309 + i));
    all
}

/// APM vol. 2, "Performance Monitoring Counters"; vol. 3, "Extended Feature
/// Identifiers".
fn amd(table: &[CpuidEntry]) -> Registers {
    let features = find(table, 0x8000_0001, 0).ecx;
    let leaf_22 = table.iter().find(|e| e.leaf == 0x8000_0022);
    let leaf_22 = leaf_22.filter(|e| bit(e.eax, 0));
    let mut all: Registers = run(0xc001_0000, 1, 8).collect();
    if bit(features, 23) {
        let counters = leaf_22.map_or(6, |e| e.ebx & 0xf);
        all.extend(run(0xc001_0200, 1, 2 * counters));
    }
    if bit(features, 24) {
        let counters = leaf_22.map_or(4, |e| e.ebx >> 10 & 0x3f);
        all.extend(run(0xc001_0240, 1, 2 * counters));
    }
    if bit(features, 28) {
        all.extend(run(0xc001_0230, 1, 12));
    }
    if let Some(leaf) = leaf_22 {
        all.extend(run(0xc000_0300, 1, 4));
        all.extend(run(0xc001_0800, 1, 2 * (leaf.ebx >> 16 & 0x3f)));
    }
    if bit(find(table, 0x8000_0007, 0).edx, 14) {
        all.extend([0xc001_0299, 0xc001_029b]);
    }
    let sizes = find(table, 0x8000_0008, 0);
    for (there, register) in [
        // Sampling, the time-stamp counter of PTSC, IRPERF, branch sampling.
        (bit(features, 10), 0xc001_1030),
        (bit(features, 27), 0xc001_0280),
        (bit(sizes.ebx, 1), 0xc000_00e9),
        (bit(sizes.ebx, 31), 0xc001_0300),
    ] {
        all.extend(there.then_some(register));
    }
    all
}

/// The registers that the table of a guest with this PMU announces.
fn announced(host: &[CpuidEntry], model: &Model, uncore: UncoreModel) -> Registers {
    let plan = CpuidPlan {
        uncore,
        ..plan(host, Profile::around(model.cpuid()))
    };
    let table = plan.table(VcpuId(0));
    match plan.profile {
        Profile::Amd(_) => amd(&table),
        _ => intel(&table, model.rdmsr(PERF_CAPABILITIES).unwrap_or(0)),
    }
}

/// The registers of the rows.
fn rows(model: &Model, uncore: UncoreModel) -> Registers {
    let core = model.registers().map(|(MsrIndex(index), _)| index);
    let scoped = uncore.registers().map(|(MsrIndex(index), _)| index);
    core.chain(scoped).collect()
}

/// Every model with every number of counters.
fn configs() -> Vec<ModelConfig> {
    let mut all = Vec::new();
    for kind in ModelKind::ALL {
        let limits = kind.limits();
        for gp in limits.gp {
            for fixed in limits.fixed.clone() {
                for width in [*limits.width.start(), *limits.width.end()] {
                    let shape = Shape { gp, fixed, width };
                    all.push(ModelConfig::new(kind, shape, ArchEventSet::ALL).unwrap());
                }
            }
        }
    }
    let bitmaps = (0..16).flat_map(|bitmap| {
        let with = move |config: &ModelConfig| match config {
            ModelConfig::Intel(config) => Some(config.with_fixed_bitmap(bitmap)),
            ModelConfig::Amd(_) => None,
        };
        let configs: Vec<_> = all
            .iter()
            .filter_map(with)
            .map(ModelConfig::Intel)
            .collect();
        configs
    });
    let bitmaps: Vec<_> = bitmaps.collect();
    all.extend(bitmaps);
    all
}

#[test]
fn cpuid_announces_the_registers_of_the_rows_and_no_others() {
    let none = UncoreModel::default();
    for config in configs() {
        let model = Model::new(config);
        for host in [amd_host(), intel_host()] {
            let announced = announced(&host, &model, none);
            assert_eq!(announced, rows(&model, none), "{config:?}");
        }
    }
}

/// RAPL of an Intel guest is announced by the model number alone.
#[test]
fn cpuid_announces_the_uncore_pmus_of_an_amd_guest() {
    let power = UncoreModel::default().with_power(Power::new(PowerForm::Amd));
    let each = [
        power,
        UncoreModel::default().with_l3(),
        UncoreModel::default().with_df(),
        power.with_l3().with_df(),
    ];
    let units = (1..=UncoreModel::MAX_UMC).map(|n| power.with_l3().with_df().with_umc(n).unwrap());
    for config in configs() {
        let ModelConfig::Amd(amd) = &config else {
            continue;
        };
        let model = Model::new(config);
        // Only PerfMonV2 can tell of memory controllers.
        let units = units.clone().filter(|_| amd.has_globals());
        for uncore in each.into_iter().chain(units) {
            for host in [amd_host(), intel_host()] {
                let announced = announced(&host, &model, uncore);
                assert_eq!(announced, rows(&model, uncore), "{config:?} {uncore:?}");
            }
        }
    }
}

/// G-201 to G-203: leaf 0AH of a core shows less than there is.
#[test]
fn a_hybrid_core_has_what_linux_adds_to_leaf_0ah() {
    use vpmu::guest::CoreType;
    let none = UncoreModel::default();
    for (core, hidden) in [
        (
            CoreType::Core,
            vec![0xc7, 0xc8, 0x18c, 0x18d, 0x30c, 0x329, 0x4c7, 0x4c8],
        ),
        (CoreType::Atom, vec![]),
    ] {
        let config = ArchPerfmonConfig::hybrid(core, ArchEventSet::ALL);
        let model = Model::new(ModelConfig::Intel(config));
        let mut announced = announced(&amd_host(), &model, none);
        announced.extend(hidden);
        assert_eq!(announced, rows(&model, none), "{core:?}");
    }
}
