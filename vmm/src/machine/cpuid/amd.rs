//! Topology leaves that only AMD hosts have (AMD APM vol. 3, "Extended
//! Feature Identifiers"), for a guest that sees the host's own CPU.

use vpmu::ids::VcpuId;

use super::table::Table;
use crate::config::Topology;

/// Leaf 8000_0001H:ECX: PERFCTR_CORE, PERFCTR_NB, PERFCTR_LLC.
const PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;
/// Leaf 8000_0001H:ECX: topology extensions.
const TOPOEXT: u32 = 1 << 22;

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
