//! AMD CPUs: the topology leaves that only AMD has, for a guest that sees the
//! host's own CPU, and the PMU leaves for a guest with an AMD model (AMD APM vol.
//! 3, "Extended Feature Identifiers"; guest-contract §3.1).

use vpmu::ids::VcpuId;
use vpmu::uncore::{Power, PowerForm, UncoreModel};
use vpmu::x86::cpuid::{AmdLeaves, Leaf22Ebx, Vendor};

use super::intel;
use super::table::Table;
use crate::config::Topology;

/// Leaf 8000_0001H:ECX: the counters of the data fabric, of the last-level cache.
const PERFCTR_NB: u32 = 1 << 24;
const PERFCTR_LLC: u32 = 1 << 28;
const PERFCTR: u32 = PERFCTR_CORE | PERFCTR_NB | PERFCTR_LLC;
/// Leaf 8000_0001H:ECX: topology extensions.
const TOPOEXT: u32 = 1 << 22;
/// Leaf 8000_0001H:ECX: PERFCTR_CORE.
const PERFCTR_CORE: u32 = 1 << 23;
/// Leaf 8000_0001H:ECX: SVM, IBS, PTSC. The PMU counts hosts and guests apart
/// where there is SVM, and the guest has none.
const WITH_SVM_OR_SAMPLING: u32 = 1 << 2 | 1 << 10 | 1 << 27;
/// Leaf 8000_0007H:EDX: RAPL.
const RAPL: u32 = 1 << 14;
/// Leaf 8000_0008H:EBX: IRPERF, BRS.
const IRPERF_BRS: u32 = 1 << 1 | 1 << 31;
/// Leaf 8000_0022H, and its EAX bit 0: PerfMonV2.
const EXT_PERFMON: u32 = 0x8000_0022;
const PERFMON_V2: u32 = 1;
/// "Cache Topology Information", "Extended Identifiers", "Extended CPU Topology".
const CACHES: u32 = 0x8000_001d;
const NODES: u32 = 0x8000_001e;
const EXT_TOPOLOGY: u32 = 0x8000_0026;
/// Leaf 8000_001EH counts the nodes of a package in three bits.
const MOST_DIES: u16 = 8;
/// Family 17h, model 31h, stepping 0 (Zen 2).
const SIGNATURE: u32 = 0x0083_0f10;
/// The first family whose generic events are the ones that the models know.
const FIRST_FAMILY: u32 = 0x17;

/// An AMD CPU with this PMU. The host's own is kept if it is new enough.
pub(super) fn apply_pmu(table: &mut Table, topology: &Topology, vcpu: VcpuId, pmu: AmdLeaves) {
    intel::drop_pmu(table);
    if !table.is_amd() {
        from_foreign(table);
        intel::without_hypercalls(table);
    }
    let leaf1 = table.get(0x1, 0);
    if family(leaf1.eax) < FIRST_FAMILY {
        leaf1.eax = SIGNATURE;
        table.get(0x8000_0001, 0).eax = SIGNATURE;
    }
    // Every family from 17h on has them.
    table.get(0x8000_0001, 0).ecx |= TOPOEXT;
    apply(table, topology, vcpu);
    let features = table.get(0x8000_0001, 0);
    features.ecx &= !WITH_SVM_OR_SAMPLING;
    if pmu.perfctr_core {
        features.ecx |= PERFCTR_CORE;
    }
    table.get(0x8000_0007, 0).edx &= !RAPL;
    table.get(0x8000_0008, 0).ebx &= !IRPERF_BRS;
    // SVM's and IBS's own leaves.
    table.remove_if(|leaf| matches!(leaf, 0x8000_000a | 0x8000_001b));
    if let Some(leaf_22) = pmu.leaf_22 {
        table.set_plain(EXT_PERFMON, [PERFMON_V2, leaf_22.into_bits(), 0, 0]);
        table.raise_max_extended_leaf(EXT_PERFMON);
    }
}

/// The uncore PMUs (guest-contract §6); after [`apply_pmu`].
pub(super) fn apply_uncore(table: &mut Table, uncore: &UncoreModel) {
    let is_amds = |power: Power| power.form() == PowerForm::Amd;
    if uncore.power().is_some_and(is_amds) {
        table.get(0x8000_0007, 0).edx |= RAPL;
    }
    let features = table.get(0x8000_0001, 0);
    if uncore.df() {
        features.ecx |= PERFCTR_NB;
    }
    if uncore.l3() {
        features.ecx |= PERFCTR_LLC;
    }
    let leaf_22 = table.get(EXT_PERFMON, 0);
    if leaf_22.eax & PERFMON_V2 == 0 {
        return;
    }
    let mut counters = Leaf22Ebx::from_bits(leaf_22.ebx);
    if uncore.df() {
        counters.set_df_counters(UncoreModel::DF_COUNTERS);
    }
    counters.set_umc_counters(uncore.umc() * UncoreModel::UMC_COUNTERS);
    leaf_22.ebx = counters.into_bits();
    // A bit for each memory controller.
    leaf_22.ecx = (1 << uncore.umc()) - 1;
}

const fn family(signature: u32) -> u32 {
    let base = signature >> 8 & 0xf;
    if base == 0xf {
        base + (signature >> 20 & 0xff)
    } else {
        base
    }
}

/// Makes another vendor's CPU an AMD one: the signature is set, the leaves that
/// only Intel has are gone.
fn from_foreign(table: &mut Table) {
    table.set_vendor(Vendor::Amd);
    table.get(0x1, 0).eax = SIGNATURE;
    table.remove_if(|leaf| matches!(leaf, 0x2 | 0x4 | 0x1f));
    let features = table.get(0x8000_0001, 0);
    features.eax = SIGNATURE;
    table.raise_max_extended_leaf(0x8000_0008);
}

/// What a topology has to be for these leaves to tell of it, if they cannot.
pub(super) const fn cannot_tell(topology: &Topology) -> Option<&'static str> {
    if topology.dies > MOST_DIES {
        Some("up to 8 dies per package")
    } else if topology.cluster > 1 {
        Some("no clusters")
    } else {
        None
    }
}

/// The leaves that depend on a vCPU's place, and no PMU.
pub(super) fn apply(table: &mut Table, topology: &Topology, vcpu: VcpuId) {
    let features = table.get(0x8000_0001, 0);
    features.ecx &= !PERFCTR;
    let extended = features.ecx & TOPOEXT != 0;
    // PerfMonV2, and the topology leaf that carries host ids.
    table.set_plain(EXT_PERFMON, [0; 4]);
    table.remove(EXT_TOPOLOGY);
    if table.has(0x8000_0008) {
        let sizes = table.get(0x8000_0008, 0);
        sizes.ecx = (topology.cpus_per_package() - 1) | topology.package_shift() << 12;
    }
    if !extended {
        return;
    }
    nodes(table, topology, vcpu);
    caches(table, topology);
    if topology.dies > 1 {
        levels(table, topology, vcpu);
    }
}

/// Leaf 8000_001EH: core and node; each die is a node.
fn nodes(table: &mut Table, topology: &Topology, vcpu: VcpuId) {
    let apic_id = topology.apic_id(vcpu);
    let core = (apic_id & ((1 << topology.package_shift()) - 1)) >> topology.core_shift();
    let node = apic_id >> topology.die_shift();
    let threads = u32::from(topology.threads) - 1;
    let nodes = u32::from(topology.dies) - 1;
    table.set_plain(
        NODES,
        [
            apic_id,
            (core & 0xff) | threads << 8,
            (node & 0xff) | (nodes & 7) << 8,
            0,
        ],
    );
    table.raise_max_extended_leaf(NODES);
}

/// Leaf 8000_001DH: who shares each of the host's caches, in APIC ids. A CPU
/// without the leaf gets the sizes of a Zen 2.
fn caches(table: &mut Table, topology: &Topology) {
    /// 32 KiB + 32 KiB, 512 KiB per core, 16 MiB per complex; 64-byte lines.
    const ZEN_2: [[u32; 4]; 5] = [
        [0x121, 0x01c0_003f, 63, 0],
        [0x122, 0x01c0_003f, 63, 0],
        [0x143, 0x01c0_003f, 1023, 2],
        [0x163, 0x03c0_003f, 16383, 1],
        [0; 4],
    ];
    if table.get(CACHES, 0).eax & 0x1f == 0 {
        table.set_indexed(CACHES, &ZEN_2);
    }
    for subleaf in 0..4 {
        if !table.has_subleaf(CACHES, subleaf) {
            break;
        }
        let cache = table.get(CACHES, subleaf);
        if cache.eax & 0x1f == 0 {
            break;
        }
        let sharing = match cache.eax >> 5 & 7 {
            3 => 1 << topology.die_shift(),
            _ => 1 << topology.core_shift(),
        };
        cache.eax = (cache.eax & 0xfff) | (sharing - 1u32) << 14;
    }
}

/// Leaf 8000_0026H, which alone tells Linux 6.12 of dies: cores, complexes,
/// dies, packages, each with the shift that leads to its number. A die is one
/// complex.
fn levels(table: &mut Table, topology: &Topology, vcpu: VcpuId) {
    let apic_id = topology.apic_id(vcpu);
    let threads = u32::from(topology.threads);
    let (per_die, per_package) = (topology.cpus_per_die(), topology.cpus_per_package());
    let level = |shift, cpus, number: u32| [shift, cpus, (number + 1) << 8 | number, apic_id];
    let subleaves = [
        level(topology.core_shift(), threads, 0),
        level(topology.die_shift(), per_die, 1),
        level(topology.die_shift(), per_die, 2),
        level(topology.package_shift(), per_package, 3),
        [0, 0, 4, apic_id],
    ];
    table.set_indexed(EXT_TOPOLOGY, &subleaves);
    table.raise_max_extended_leaf(EXT_TOPOLOGY);
}
