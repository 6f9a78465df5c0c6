//! AMD's CPUs: the topology leaves that only they have, for a guest that sees
//! the host's own CPU, and the PMU for one that has an AMD model (AMD APM vol.
//! 3, "Extended Feature Identifiers"; guest-contract §3.1).

use vpmu::ids::VcpuId;
use vpmu::x86::cpuid::{AmdLeaves, Vendor};

use super::intel;
use super::table::Table;
use crate::config::Topology;

/// Leaf 8000_0001H:ECX: PERFCTR_CORE, PERFCTR_NB, PERFCTR_LLC.
const PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;
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
    features.ecx &= !TOPOEXT;
    table.raise_max_extended_leaf(0x8000_0008);
}

pub(super) fn apply(table: &mut Table, topology: &Topology, vcpu: VcpuId) {
    let features = table.get(0x8000_0001, 0);
    features.ecx &= !PERFCTR;
    let extended = features.ecx & TOPOEXT != 0;
    // PerfMonV2, and the 6.12 topology leaf that carries host ids.
    table.set_plain(0x8000_0022, [0; 4]);
    table.remove(0x8000_0026);
    let threads = u32::from(topology.threads);
    let per_package = threads * u32::from(topology.cores) * u32::from(topology.dies);
    if table.has(0x8000_0008) {
        let sizes = table.get(0x8000_0008, 0);
        sizes.ecx = (per_package - 1) | topology.package_shift() << 12;
    }
    if !extended {
        return;
    }
    let apic_id = topology.apic_id(vcpu);
    let core = (apic_id & ((1 << topology.package_shift()) - 1)) >> topology.core_shift();
    let node = apic_id >> topology.die_shift();
    let nodes = u32::from(topology.dies) - 1;
    table.set_plain(
        0x8000_001e,
        [
            apic_id,
            (core & 0xff) | (threads - 1) << 8,
            (node & 0xff) | (nodes & 7) << 8,
            0,
        ],
    );
    for subleaf in 0..4 {
        let cache = table.get(0x8000_001d, subleaf);
        if cache.eax & 0x1f == 0 {
            break;
        }
        let sharing = if cache.eax >> 5 & 7 == 3 {
            threads * u32::from(topology.cores)
        } else {
            threads
        };
        cache.eax = (cache.eax & 0xfff) | (sharing - 1) << 14;
    }
}
