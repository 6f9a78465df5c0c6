//! The `intel-generic` profile, on any host.

use vpmu::x86::cpuid::{IntelLeaves, Vendor};

use super::table::Table;
use crate::config::Topology;

/// Family 6, model 0x66, stepping 3.
const SIGNATURE: u32 = 0x0006_0663;
/// Leaf 01H:ECX.
const DTES64: u32 = 1 << 2;
/// Leaf 01H:EDX.
const DS: u32 = 1 << 21;
/// "Deterministic Cache Parameters".
const CACHES: u32 = 0x4;
/// Leaf 07H:EBX.
pub(super) const HLE: u32 = 1 << 4;
pub(super) const RTM: u32 = 1 << 11;
pub(super) const PT: u32 = 1 << 25;
/// Leaf 07H:ECX: bus locks raise #DB where DEBUGCTL asks for it, bit 2 (SDM vol. 3B,
/// "OS Bus-Lock Detection"). Linux sets that bit without expecting a fault.
pub(super) const BUS_LOCK_DETECT: u32 = 1 << 24;
/// Leaf 07H:EDX: TSX_FORCE_ABORT, hybrid, architectural LBR.
const FORCE_ABORT: u32 = 1 << 13;
pub(super) const HYBRID: u32 = 1 << 15;
pub(super) const ARCH_LBR: u32 = 1 << 19;
/// Leaf 07H.1:EAX: leaf 23H is there.
const ARCH_PERFMON_EXT: u32 = 1 << 8;
/// Leaf 8000_0001H as Intel has it: ECX LAHF, LZCNT, PREFETCHW; EDX SYSCALL,
/// NX, 1 GiB pages, RDTSCP, long mode.
const EXT_ECX: u32 = 1 << 0 | 1 << 5 | 1 << 8;
const EXT_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// Leaf 8000_0007H:EDX: invariant TSC.
const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 8000_0008H:EBX: WBNOINVD, the only bit that Intel has there.
const WBNOINVD: u32 = 1 << 9;
/// Leaf 4000_0001H:EAX, "KVM CPUID bits": what a guest does by hypercall:
/// waking a vCPU that waits for a lock, IPIs, yielding, sharing memory.
const KVM_FEATURES: u32 = 0x4000_0001;
const BY_HYPERCALL: u32 = 1 << 7 | 1 << 11 | 1 << 13 | 1 << 16;
const BRAND: &[u8; 48] =
    b"Perfvisor virtual CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

pub(super) fn apply(table: &mut Table, topology: &Topology, pmu: IntelLeaves) {
    let foreign = !table.is_intel();
    table.set_vendor(Vendor::Intel);
    drop_pmu(table);
    let leaf1 = table.get(0x1, 0);
    leaf1.eax = SIGNATURE;
    let leaf7 = table.get(0x7, 0);
    leaf7.ebx &= !(HLE | RTM);
    leaf7.edx &= !(FORCE_ABORT | HYBRID);
    // DEBUGCTL is the model's, which has no such bit.
    leaf7.ecx &= !BUS_LOCK_DETECT;
    table.set_plain(0xa, pmu.leaf_0a.words());
    if pmu.pdcm {
        table.get(0x1, 0).ecx |= super::PDCM;
    }
    if foreign {
        from_foreign(table);
        without_hypercalls(table);
    }
    caches(table, topology);
}

/// Takes away whatever reaches a host PMU or its relatives: KVM's own vPMU is
/// not used.
pub(super) fn drop_pmu(table: &mut Table) {
    let leaf1 = table.get(0x1, 0);
    leaf1.ecx &= !(DTES64 | super::PDCM);
    leaf1.edx &= !DS;
    let leaf7 = table.get(0x7, 0);
    leaf7.ebx &= !PT;
    leaf7.edx &= !ARCH_LBR;
    if leaf7.eax >= 1 {
        table.get(0x7, 1).eax &= !ARCH_PERFMON_EXT;
    }
    table.remove_if(|leaf| matches!(leaf, 0x14 | 0x1a | 0x1c | 0x23));
}

/// Makes the extended range of another vendor's CPU look like Intel's.
fn from_foreign(table: &mut Table) {
    table.remove_if(|leaf| (0x8000_0009..=0x8fff_ffff).contains(&leaf));
    table.set_plain(0x8000_0000, [0x8000_0008, 0, 0, 0]);
    let features = table.get(0x8000_0001, 0);
    features.eax = 0;
    features.ebx = 0;
    features.ecx &= EXT_ECX;
    features.edx &= EXT_EDX;
    for (leaf, text) in (0x8000_0002..).zip(BRAND.chunks_exact(16)) {
        let mut words = [0u32; 4];
        for (word, bytes) in words.iter_mut().zip(text.chunks_exact(4)) {
            *word = bytes.try_into().map_or(0, u32::from_le_bytes);
        }
        table.set_plain(leaf, words);
    }
    table.set_plain(0x8000_0005, [0; 4]);
    table.set_plain(0x8000_0006, [0; 4]);
    let power = table.get(0x8000_0007, 0).edx & INVARIANT_TSC;
    table.set_plain(0x8000_0007, [0, 0, 0, power]);
    let sizes = *table.get(0x8000_0008, 0);
    table.set_plain(0x8000_0008, [sizes.eax, sizes.ebx & WBNOINVD, 0, 0]);
}

/// Takes away what would make the guest execute its vendor's hypercall, VMCALL
/// or VMMCALL. On another vendor's CPU it is an invalid opcode; KVM then patches the
/// instruction in the guest's text, which is read-only, and the guest gets a
/// page fault where it holds a lock (rule G-011).
pub(super) fn without_hypercalls(table: &mut Table) {
    if table.has(KVM_FEATURES) {
        table.get(KVM_FEATURES, 0).eax &= !BY_HYPERCALL;
    }
}

/// One cache of leaf 04H.
struct Cache {
    /// 1 data, 2 instruction, 3 both.
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
    /// APIC ids that may share it.
    sharing: u32,
}

impl Cache {
    fn entry(&self, cores: u32) -> [u32; 4] {
        const SELF_INITIALISING: u32 = 1 << 8;
        const LINE: u32 = 64;
        [
            self.kind
                | self.level << 5
                | SELF_INITIALISING
                | (self.sharing - 1) << 14
                | (cores - 1).min(63) << 26,
            (self.ways - 1) << 22 | (LINE - 1),
            self.sets - 1,
            0,
        ]
    }
}

/// Who shares the host's own caches, in APIC ids: leaf 04H of a guest that
/// sees the host's CPU.
pub(super) fn share_caches(table: &mut Table, topology: &Topology) {
    const MOST: u32 = 8;
    let cores = 1u32 << (topology.package_shift() - topology.core_shift());
    for subleaf in 0..MOST {
        if !table.has_subleaf(CACHES, subleaf) {
            break;
        }
        let cache = table.get(CACHES, subleaf);
        let sharing = match cache.eax >> 5 & 7 {
            3.. => 1u32 << topology.die_shift(),
            2 => 1 << topology.cluster_shift(),
            _ => 1 << topology.core_shift(),
        };
        if cache.eax & 0x1f != 0 {
            let what = cache.eax & 0x3fff;
            cache.eax = what | (sharing - 1) << 14 | (cores - 1).min(63) << 26;
        }
    }
}

/// Leaf 04H ("Deterministic Cache Parameters"): 32 KiB + 32 KiB per core,
/// 1 MiB per cluster, 16 MiB per die. Linux finds clusters by the second level
/// (guest-contract §7.5).
fn caches(table: &mut Table, topology: &Topology) {
    let core = 1u32 << topology.core_shift();
    let cluster = 1u32 << topology.cluster_shift();
    let die = 1u32 << topology.die_shift();
    let cores = 1u32 << (topology.package_shift() - topology.core_shift());
    let cache = |kind, level, ways, sets, sharing| {
        Cache {
            kind,
            level,
            ways,
            sets,
            sharing,
        }
        .entry(cores)
    };
    table.set_indexed(
        CACHES,
        &[
            cache(1, 1, 8, 64, core),
            cache(2, 1, 8, 64, core),
            cache(3, 2, 16, 1024, cluster),
            cache(3, 3, 16, 16384, die),
            [0; 4],
        ],
    );
    // Leaf 02H: "see leaf 04H" (descriptor FFH), one round of reading.
    table.set_plain(0x2, [0x00ff_0001, 0, 0, 0]);
}
