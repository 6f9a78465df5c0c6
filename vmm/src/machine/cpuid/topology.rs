//! The topology leaves of each vCPU: which vCPUs share a core, a cache, a package
//! (Intel SDM vol. 2A, "CPUID").
//!
//! KVM's supported table contains the ids of the host CPU on which it was read, so
//! every id is overwritten here.

use vpmu::ids::VcpuId;

use super::table::Table;
use crate::config::Topology;

/// Leaf 01H:EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Level types of leaves 0BH and 1FH, in `ECX[15:8]`.
const THREAD: u32 = 1 << 8;
const CORE: u32 = 2 << 8;
const DIE: u32 = 5 << 8;

pub(super) fn apply(table: &mut Table, topology: &Topology, vcpu: VcpuId) {
    let apic_id = topology.apic_id(vcpu);
    let leaf1 = table.get(0x1, 0);
    let logical = 1u32 << topology.package_shift();
    leaf1.ebx = (leaf1.ebx & 0xffff) | (logical.min(255) << 16) | (apic_id << 24);
    if logical > 1 {
        leaf1.edx |= HTT;
    } else {
        leaf1.edx &= !HTT;
    }
    let threads = u32::from(topology.threads);
    let (per_die, per_package) = (topology.cpus_per_die(), topology.cpus_per_package());
    let thread = [topology.core_shift(), threads, THREAD, apic_id];
    let package_shift = topology.package_shift();
    table.set_indexed(
        0xb,
        &[
            thread,
            [package_shift, per_package, CORE | 1, apic_id],
            [0, 0, 2, apic_id],
        ],
    );
    table.raise_max_leaf(0xb);
    if table.is_intel() {
        let mut levels = vec![thread, [topology.die_shift(), per_die, CORE | 1, apic_id]];
        if topology.dies > 1 {
            levels.push([package_shift, per_package, DIE | 2, apic_id]);
        }
        let end = u32::try_from(levels.len()).unwrap_or(0);
        levels.push([0, 0, end, apic_id]);
        table.set_indexed(0x1f, &levels);
        table.raise_max_leaf(0x1f);
    }
}
