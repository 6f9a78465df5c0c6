//! What a host's KVM says of its CPUID, of any bytes, and the flags of a VM: the
//! guest's table names its hypervisor, its PMU and each vCPU's own number,
//! whatever the host says.
//! `cargo +nightly fuzz run cpuid -s none` in `vmm`.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use vmm::config::{CpusConfig, PmuArg};
use vmm::kvm::CpuidEntry;
use vmm::machine::cpuid::{CpuidPlan, Profile};
use vpmu::guest::{GuestPmu, Model, ModelConfig, ModelKind};
use vpmu::ids::VcpuId;
use vpmu::uncore::{Power, PowerForm, UncoreModel};
use vpmu::x86::event::ArchEventSet;

/// A leaf that something is done with, or any.
const LEAVES: [u32; 24] = [
    0,
    1,
    2,
    4,
    5,
    6,
    7,
    0xa,
    0xb,
    0xd,
    0x14,
    0x1a,
    0x1f,
    0x23,
    0x4000_0000,
    0x4000_0001,
    0x8000_0000,
    0x8000_0001,
    0x8000_0008,
    0x8000_001d,
    0x8000_001e,
    0x8000_0021,
    0x8000_0022,
    0x8000_0026,
];

fuzz_target!(|data: &[u8]| {
    let Some(([model, threads, cores, rest], entries)) = data.split_first_chunk::<4>() else {
        return;
    };
    let host: Vec<_> = entries.as_chunks::<18>().0.iter().map(entry).collect();
    let (threads, cores) = (1 + threads % 4, 1 + cores % 12);
    let (dies, packages) = (1 + (rest & 1), 1 + (rest >> 1 & 1));
    let max = threads * cores * dies * packages;
    let cpus = format!("boot=1,max={max},topology={threads}:{cores}:{dies}:{packages}");
    let Some(cpus) = parse(cpus) else { return };
    let pmu = usize::from(*model).checked_sub(1).map(|i| {
        let kind = ModelKind::ALL[i % ModelKind::ALL.len()];
        let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL);
        Model::new(config.expect("its own shape")).cpuid()
    });
    let plan = CpuidPlan {
        supported: &host,
        tsc_deadline: rest & 4 != 0,
        topology: cpus.topology,
        profile: pmu.map_or(Profile::Host, Profile::around),
        core_types: None,
        uncore: uncore(rest >> 3),
        nested: cpus.nested,
    };
    let _ = plan.cannot_tell();
    let mut ids = BTreeSet::new();
    for vcpu in cpus.possible() {
        check(&plan, &cpus, vcpu, &mut ids);
    }
    assert_eq!(ids.len(), usize::from(max), "an id each");
});

/// Scoped PMUs by their bits.
fn uncore(bits: u8) -> UncoreModel {
    let mut model = UncoreModel::default();
    if bits & 1 != 0 {
        model = model.with_power(Power::new(PowerForm::Amd)).with_l3();
    }
    if bits & 2 != 0 {
        model = model.with_df();
    }
    model.with_umc(bits >> 2).unwrap_or(model)
}

fn parse(cpus: String) -> Option<CpusConfig> {
    let words = ["perfvisor", "run", "--kernel", "k", "--cpus"];
    let words = words.into_iter().map(str::to_owned).chain([cpus]);
    let cli = <vmm::cli::Cli as clap::Parser>::try_parse_from(words).ok()?;
    let vmm::cli::Command::Run(args) = cli.command else {
        return None;
    };
    let config = args.vm_config().ok()?;
    assert!(matches!(config.pmu, PmuArg::On(_)), "the default");
    Some(config.cpus)
}

fn entry(bytes: &[u8; 18]) -> CpuidEntry {
    let word = |at: usize| {
        let word = bytes.get(at..).and_then(|b| b.first_chunk());
        word.map_or(0, |w| u32::from_le_bytes(*w))
    };
    CpuidEntry {
        leaf: LEAVES[usize::from(bytes[0]) % LEAVES.len()],
        subleaf: u32::from(bytes[1] & 7),
        indexed: bytes[1] & 8 != 0,
        eax: word(2),
        ebx: word(6),
        ecx: word(10),
        edx: word(14),
    }
}

fn check(plan: &CpuidPlan<'_>, cpus: &CpusConfig, vcpu: VcpuId, ids: &mut BTreeSet<u32>) {
    let table = plan.table(vcpu);
    // As KVM looks for subleaf 0.
    let answers = |e: &&CpuidEntry, leaf| e.leaf == leaf && (!e.indexed || e.subleaf == 0);
    let find = |leaf: u32| table.iter().find(|e| answers(e, leaf));
    let first = find(1).expect("leaf 01H is always there");
    assert!(first.ecx & 1 << 31 != 0, "HYPERVISOR (G-008)");
    assert_eq!(first.ebx >> 24, cpus.topology.apic_id(vcpu) & 0xff);
    ids.insert(first.ebx >> 24);
    let shown = find(0xa).map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx]);
    match plan.profile {
        Profile::IntelGeneric(pmu) => {
            assert_eq!(shown, pmu.leaf_0a.words());
            assert_eq!(first.ecx >> 15 & 1, u32::from(pmu.pdcm), "PDCM");
        }
        _ => assert_eq!(shown, [0; 4], "no architectural PMU"),
    }
}
