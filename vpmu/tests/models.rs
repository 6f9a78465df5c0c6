//! Random accesses to every guest PMU model: what the manuals promise of any
//! register at any time. The masks below are written from guest-contract §1.4,
//! §3.2 and §8, apart from the models.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use proptest::prelude::*;
use vpmu::guest::{
    ArchPerfmonConfig, CoreType, Demand, Effect, GuestPmu, Model, ModelConfig, ModelKind, MsrError,
    Wrap, intercepted,
};
use vpmu::ids::{MsrIndex, Pmc, PmcSet};
use vpmu::units::Count;
use vpmu::x86::event::{ArchEvent, ArchEventSet};

/// What may be in a register of this model, by its index. `None`: no register.
fn may_hold(spec: &Spec, index: u32) -> Option<u64> {
    let gp = |i: u32| i < spec.gp;
    let width = (1u64 << spec.width) - 1;
    let v = spec.intel;
    let any = matches!(v, 3 | 4);
    let counters = spec.counters();
    let metrics = if spec.metrics { 1 << 48 } else { 0 };
    let found = match index {
        0xc1..=0xc8 if v > 0 => gp(index - 0xc1).then_some(width),
        0x4c1..=0x4c8 if v > 1 => gp(index - 0x4c1).then_some(width),
        0x186..=0x18d if v > 0 => {
            gp(index - 0x186).then_some(if any { 0xffff_ffff } else { 0xffdf_ffff })
        }
        0x309..=0x30c if v > 1 => (index - 0x309 < spec.fixed).then_some(width),
        0x38d if v > 1 => {
            let field = if any { 0xf } else { 0xb };
            Some((0..spec.fixed).fold(0, |m, i| m | field << (4 * i)))
        }
        0x38e if v > 1 => Some(counters | metrics | if v > 3 { 1 << 59 } else { 0 }),
        0x391 if v > 3 => Some(counters | metrics | 1 << 59),
        0x38f if v > 1 => Some(counters | metrics),
        0x390 if v > 1 => Some(0),
        0x392 if v > 3 => Some(counters | 1 << 63),
        0x345 if v > 1 => Some(1 << 13),
        0x1d9 if v > 1 => Some(0x1803),
        0x1d9 if v == 1 => Some(3),
        0x329 if spec.metrics => Some(!0),
        0xc001_0000..=0xc001_0003
        | 0xc001_0200
        | 0xc001_0202
        | 0xc001_0204
        | 0xc001_0206
        | 0xc001_0208
        | 0xc001_020a => Some(0x30f_ffd7_ffff),
        0xc001_0004..=0xc001_0007 | 0xc001_0201..=0xc001_020b => Some(width),
        0xc000_0300 | 0xc000_0301 => Some(counters),
        0xc000_0302 | 0xc000_0303 => Some(0),
        _ => None,
    };
    let is_amd = index >= 0xc000_0000;
    let generation = match index {
        0xc001_0000..=0xc001_0007 => 1,
        0xc001_0200..=0xc001_020b => 2,
        _ => 3,
    };
    found.filter(|_| !is_amd || spec.amd >= generation)
}

/// A model as the manuals describe it.
#[derive(Clone, Copy, Debug)]
struct Spec {
    /// Version of architectural performance monitoring; 0: AMD.
    intel: u32,
    /// 1 K7, 2 PERFCTR_CORE, 3 PerfMonV2; 0: Intel.
    amd: u32,
    gp: u32,
    fixed: u32,
    width: u32,
    metrics: bool,
}

impl Spec {
    fn counters(&self) -> u64 {
        ((1 << self.gp) - 1) | (((1 << self.fixed) - 1) << 32)
    }

    fn has_status(&self) -> bool {
        self.intel > 1 || self.amd > 2
    }

    fn status(&self) -> MsrIndex {
        MsrIndex(if self.amd > 0 { 0xc000_0300 } else { 0x38e })
    }
}

fn named(n: usize) -> (Model, Spec) {
    let intel = |version, gp, fixed, width| Spec {
        intel: version,
        amd: 0,
        gp,
        fixed,
        width,
        metrics: false,
    };
    let amd = |generation, gp| Spec {
        intel: 0,
        amd: generation,
        gp,
        fixed: 0,
        width: 48,
        metrics: false,
    };
    let specs = [
        intel(1, 2, 0, 40),
        intel(2, 4, 3, 48),
        intel(3, 4, 3, 48),
        intel(4, 4, 3, 48),
        intel(5, 8, 3, 48),
        amd(1, 4),
        amd(2, 6),
        amd(3, 6),
    ];
    let events = ArchEventSet::ALL;
    let hybrid = |core| Model::new(ModelConfig::Intel(ArchPerfmonConfig::hybrid(core, events)));
    match n {
        0..8 => {
            let kind = ModelKind::ALL[n];
            let config = ModelConfig::new(kind, kind.shape(), events).unwrap();
            (Model::new(config), specs[n])
        }
        8 => {
            let spec = Spec {
                metrics: true,
                ..intel(5, 8, 4, 48)
            };
            (hybrid(CoreType::Core), spec)
        }
        _ => (hybrid(CoreType::Atom), intel(5, 6, 3, 48)),
    }
}

/// An index of the table, as a rule; each register is as likely as another.
fn index() -> impl Strategy<Value = u32> {
    let listed: Vec<u32> = intercepted()
        .flat_map(|run| run.indices().take(12).map(|index| index.0))
        .collect();
    prop_oneof![20 => prop::sample::select(listed), 1 => any::<u32>()]
}

/// Values with few bits, with many, and at the ends of counters.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..0x100).prop_map(|low| 0x53_0000 | low),
        (0u64..1 << 12),
        (1u64..100).prop_map(|n| (1 << 48) - n),
        (1u64..100).prop_map(|n| 0xffff_ffff - n),
        Just(0x7_0000_000f),
        Just(0x53_0076),
        Just(0x53_003c),
        Just(0),
        Just(!0),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read(u32),
    Write(u32, u64),
    Count(u8, u64),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => index().prop_map(Op::Read),
        12 => (index(), value()).prop_map(|(i, v)| Op::Write(i, v)),
        4 => (any::<u8>(), value()).prop_map(|(c, v)| Op::Count(c, v & ((1 << 48) - 1))),
        1 => Just(Op::Reset),
    ]
}

/// Everything that a guest can read.
fn readable(model: &Model) -> Vec<(MsrIndex, u64)> {
    let registers = model.registers();
    registers
        .map(|(i, access)| (i, model.read(access).unwrap()))
        .collect()
}

fn check_registers(model: &Model, spec: &Spec) -> Result<(), TestCaseError> {
    let registers = readable(model);
    for (index, value) in &registers {
        let Some(mask) = may_hold(spec, index.0) else {
            return Err(TestCaseError::fail(format!("{index} is not in the manual")));
        };
        prop_assert_eq!(value & !mask, 0, "{} holds {:#x}", index, value);
        if let Some(pmc) = model.decode(*index).unwrap().counter() {
            prop_assert_eq!(*value, model.value(pmc), "{}", index);
        }
    }
    let expected = intercepted().flat_map(|run| run.indices().map(|index| index.0));
    let expected = expected.filter(|i| may_hold(spec, *i).is_some()).count();
    prop_assert_eq!(registers.len(), expected, "registers of the manual");
    prop_assert_eq!(model.counters(), PmcSet(spec.counters()));
    Ok(())
}

/// Whether the enable bits that belong to a counter are set, by its registers.
fn is_enabled(model: &Model, spec: &Spec, pmc: Pmc) -> bool {
    let read = |index| model.rdmsr(MsrIndex(index)).unwrap_or(0);
    let bit = PmcSet::from(pmc).0;
    if spec.intel > 1 && (read(0x38f) & bit == 0 || read(0x38e) & 1 << 59 != 0) {
        return false;
    }
    if spec.amd > 2 && read(0xc000_0301) & bit == 0 {
        return false;
    }
    let slot = u32::try_from(pmc.slot()).unwrap();
    match pmc.fixed_number() {
        Some(i) => read(0x38d) >> (4 * i) & 3 != 0,
        None => {
            let index = match (spec.intel, spec.amd) {
                (1.., _) => 0x186 + slot,
                (0, 1) => 0xc001_0000 + slot,
                _ => 0xc001_0200 + 2 * slot,
            };
            let sel = read(index);
            let for_guests_or_hosts = spec.amd > 0 && sel >> 40 & 3 != 0;
            let merged = spec.amd > 0 && sel >> 24 & 0xf00 | sel & 0xff == 0xfff;
            sel & 1 << 22 != 0 && sel >> 16 & 3 != 0 && !for_guests_or_hosts && !merged
        }
    }
}

fn check_counters(model: &Model, spec: &Spec) -> Result<(), TestCaseError> {
    for pmc in model.counters().iter() {
        let demand = model.demand(pmc);
        prop_assert_eq!(demand.is_some(), is_enabled(model, spec, pmc), "{}", pmc);
        prop_assert!(model.distance(pmc).0 >= 1);
        prop_assert_eq!(model.distance(pmc).0 + model.value(pmc), 1 << spec.width);
        if let Some(Demand::Event(attr)) = demand {
            prop_assert!(attr.privilege.user || attr.privilege.kernel);
            let bus_on_amd = spec.amd > 0 && attr.code == ArchEvent::BusCycles.into();
            prop_assert!(!bus_on_amd, "no such code on AMD");
        }
    }
    for ecx in [
        0,
        1,
        3,
        4,
        5,
        6,
        8,
        15,
        0x4000_0000,
        0x4000_0003,
        0x2000_0000,
        !0,
    ] {
        let expected = match ecx {
            0..=15 => ecx < spec.gp,
            0x4000_0000..=0x4000_000f => ecx & 0xf < spec.fixed,
            _ => false,
        };
        prop_assert_eq!(model.rdpmc_counter(ecx).is_some(), expected, "{:#x}", ecx);
        let metrics = ecx == 0x2000_0000 && spec.metrics;
        prop_assert_eq!(model.rdpmc_other(ecx).is_some(), metrics, "{:#x}", ecx);
    }
    Ok(())
}

fn count(model: &mut Model, spec: &Spec, n: u8, events: u64) -> Result<(), TestCaseError> {
    let counters: Vec<_> = model.counters().iter().collect();
    let pmc = counters[usize::from(n) % counters.len()];
    if model.demand(pmc).is_none() {
        return Ok(());
    }
    let (before, status) = (model.value(pmc), model.rdmsr(spec.status()));
    let events = events & ((1 << spec.width) - 1);
    let wrap = model.advance(pmc, Count(events));
    prop_assert_eq!(
        model.value(pmc),
        (before + events) & ((1 << spec.width) - 1)
    );
    let wraps = before + events >= 1 << spec.width;
    prop_assert_eq!(wrap != Wrap::No, wraps);
    if spec.has_status() {
        let bit = if wraps { PmcSet::from(pmc).0 } else { 0 };
        let now = model.rdmsr(spec.status()).unwrap() & spec.counters();
        prop_assert_eq!(
            now,
            status.unwrap() & spec.counters() | bit,
            "the status adds it"
        );
    }
    prop_assert!(wrap != Wrap::Interrupt || model.interrupt_due());
    Ok(())
}

fn write(model: &mut Model, spec: &Spec, index: u32, value: u64) -> Result<(), TestCaseError> {
    let msr = MsrIndex(index);
    let before = readable(model);
    let found = model.decode(msr);
    let touched = found.map_or(PmcSet::EMPTY, |access| access.touches());
    let values: Vec<_> = model
        .counters()
        .iter()
        .map(|p| (p, model.value(p)))
        .collect();
    let demands: Vec<_> = model
        .counters()
        .iter()
        .map(|p| (p, model.demand(p)))
        .collect();
    let effect = found.map_or(Effect::Other, |access| access.effect(value));
    let result = model.wrmsr(msr, value);
    prop_assert_eq!(found.is_ok(), may_hold(spec, index).is_some(), "{}", msr);
    match result {
        Err(_) => {
            prop_assert_eq!(readable(model), before, "a refused write changes nothing");
            prop_assert!(spec.amd == 0 || found.is_err(), "G-301");
        }
        Ok(()) => {
            prop_assert!(found.is_ok(), "{} is not there", msr);
            let is_counter = found.is_ok_and(|access| access.counter().is_some());
            prop_assert_eq!(effect == Effect::SetsCounter, is_counter);
            for (pmc, value) in values {
                let moved = model.value(pmc) != value;
                prop_assert!(!moved || PmcSet::from(pmc) == touched, "{} by {}", pmc, msr);
            }
            for (pmc, demand) in demands {
                let changed = model.demand(pmc) != demand;
                prop_assert!(!changed || touched.contains(pmc), "{} by {}", pmc, msr);
                let began = changed && demand.is_none();
                let unfreeze = index == 0x390;
                prop_assert!(
                    !began || effect == Effect::Enables || unfreeze,
                    "{} by {}",
                    pmc,
                    msr
                );
            }
        }
    }
    if spec.intel > 0 && result.is_ok() && !matches!(index, 0xc1..=0xc8 | 0x390 | 0x391) {
        prop_assert_eq!(model.rdmsr(msr), Ok(value), "Intel stores all or faults");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn registers_keep_their_rules(
        n in 0usize..10,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let (mut model, spec) = named(n);
        let fresh = readable(&model);
        for op in ops {
            match op {
                Op::Read(index) => match model.rdmsr(MsrIndex(index)) {
                    Ok(_) => prop_assert!(may_hold(&spec, index).is_some(), "{:#x}", index),
                    Err(MsrError::InvalidAccess | MsrError::Unknown) => {
                        prop_assert!(may_hold(&spec, index).is_none(), "{:#x}", index);
                    }
                },
                Op::Write(index, value) => write(&mut model, &spec, index, value)?,
                Op::Count(pmc, events) => count(&mut model, &spec, pmc, events)?,
                Op::Reset => {
                    model.reset();
                    prop_assert_eq!(readable(&model), fresh.clone());
                }
            }
            check_registers(&model, &spec)?;
            check_counters(&model, &spec)?;
        }
    }
}
