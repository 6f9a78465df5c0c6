mod identity;
mod registers;

use super::*;
use vpmu::uncore::{Power, PowerForm};
use vpmu::x86::cpuid::{Leaf0A, Leaf0AEax, Leaf0AEdx, Leaf22Ebx};

fn entry(leaf: u32, values: [u32; 4]) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = values;
    CpuidEntry {
        leaf,
        eax,
        ebx,
        ecx,
        edx,
        ..CpuidEntry::default()
    }
}

/// A Zen-like host, every feature bit set.
fn amd_host() -> Vec<CpuidEntry> {
    let text = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    vec![
        entry(0, [0x10, text(b"Auth"), text(b"cAMD"), text(b"enti")]),
        entry(1, [0x00a2_0f10, 0x0510_0800, !0, !0]),
        entry(6, [4, 0, 1, 0]),
        entry(7, [0, !0, !0, !0]),
        entry(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, [!0, 0, 0, 0]),
        entry(
            0x8000_0000,
            [0x8000_0026, text(b"Auth"), text(b"cAMD"), text(b"enti")],
        ),
        entry(0x8000_0001, [!0; 4]),
        entry(0x8000_0008, [0x3030, !0, 0x700f, 0]),
        entry(0x8000_001e, [5, 5, 5, 0]),
        entry(0x8000_0022, [1, 6, 0, 0]),
    ]
}

fn plan(supported: &[CpuidEntry], profile: Profile) -> CpuidPlan<'_> {
    CpuidPlan {
        supported,
        tsc_deadline: true,
        topology: Topology {
            threads: 2,
            cores: 3,
            dies: 2,
            cluster: 1,
            packages: 1,
        },
        profile,
        nested: false,
        core_types: None,
        uncore: UncoreModel::default(),
    }
}

fn find(table: &[CpuidEntry], leaf: u32, subleaf: u32) -> CpuidEntry {
    *table
        .iter()
        .find(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf))
        .unwrap()
}

const PMU: IntelLeaves = IntelLeaves {
    leaf_0a: Leaf0A {
        eax: Leaf0AEax::from_bits(0x0730_0402),
        ebx: 0,
        ecx: 0,
        edx: Leaf0AEdx::from_bits(0x603),
    },
    pdcm: true,
};

const AMD_V2: AmdLeaves = AmdLeaves {
    perfctr_core: true,
    leaf_22: Some(Leaf22Ebx::from_bits(6)),
};

/// A host of Intel's, every feature bit set.
fn intel_host() -> Vec<CpuidEntry> {
    let text = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    vec![
        entry(0, [0x1f, text(b"Genu"), text(b"ntel"), text(b"ineI")]),
        entry(1, [0x0008_06f8, 0x0510_0800, !0, !0]),
        entry(4, [!0; 4]),
        entry(6, [4, 0, 1, 0]),
        entry(7, [0, !0, !0, !0]),
        entry(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, [!0, 0, 0, 0]),
        entry(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, [0, 0, 0x121, 0x2c10_0800]),
        entry(0x8000_0008, [0x3034, 0x200, 0, 0]),
    ]
}

/// Guest-contract §3.1, on hosts of either vendor.
#[test]
fn an_amd_guest_has_its_models_leaves_and_no_other() {
    for (host, signature) in [(amd_host(), 0x00a2_0f10), (intel_host(), 0x0083_0f10)] {
        for (pmu, core, leaf_22) in [
            (AmdLeaves::default(), 0, [0, 0]),
            (
                AmdLeaves {
                    leaf_22: None,
                    ..AMD_V2
                },
                1 << 23,
                [0, 0],
            ),
            (AMD_V2, 1 << 23, [1, 6]),
        ] {
            let table = plan(&host, Profile::Amd(pmu)).table(VcpuId(5));
            let leaf0 = find(&table, 0, 0);
            assert_eq!(leaf0.ebx, u32::from_le_bytes(*b"Auth"));
            assert_eq!(find(&table, 1, 0).eax, signature);
            assert_eq!(find(&table, 1, 0).ecx & (1 << 15), 0, "PDCM");
            assert_eq!(find(&table, 0xa, 0).eax, 0);
            let features = find(&table, 0x8000_0001, 0).ecx;
            assert_eq!(features & (1 << 23 | 1 << 24 | 1 << 28), core);
            assert_eq!(features & (1 << 2 | 1 << 10 | 1 << 27), 0, "SVM, IBS, PTSC");
            let sizes = find(&table, 0x8000_0008, 0);
            assert_eq!(sizes.ebx & (1 << 1 | 1 << 31), 0, "IRPERF, BRS");
            let leaf = find(&table, 0x8000_0022, 0);
            assert_eq!([leaf.eax, leaf.ebx], leaf_22);
            let max = find(&table, 0x8000_0000, 0).eax;
            assert!(max >= 0x8000_0022 || leaf_22 == [0, 0], "{max:#x}");
            assert!(
                !table
                    .iter()
                    .any(|e| matches!(e.leaf, 0x8000_000a | 0x8000_001b))
            );
        }
    }
    let foreign = plan(&intel_host(), Profile::Amd(AMD_V2)).table(VcpuId(0));
    assert_eq!(find(&foreign, 0x4000_0001, 0).eax & (1 << 7), 0, "VMMCALL");
    assert!(!foreign.iter().any(|e| matches!(e.leaf, 2 | 4 | 0x1f)));
}

/// The models know the events of family 17h and later.
#[test]
fn an_old_amd_host_shows_a_newer_family() {
    let mut host = amd_host();
    host[1].eax = 0x0006_0fb1;
    let table = plan(&host, Profile::Amd(AMD_V2)).table(VcpuId(0));
    assert_eq!(find(&table, 1, 0).eax, 0x0083_0f10);
    assert_eq!(find(&table, 0x8000_0001, 0).eax, 0x0083_0f10);
}

#[test]
fn an_amd_host_can_show_an_intel_cpu_with_a_pmu() {
    let host = amd_host();
    let table = plan(&host, Profile::IntelGeneric(PMU)).table(VcpuId(0));
    let leaf0 = find(&table, 0, 0);
    assert_eq!(leaf0.ebx, 0x756e_6547);
    assert!(leaf0.eax >= 0x1f);
    let leaf1 = find(&table, 1, 0);
    assert_eq!(leaf1.eax >> 4 & 0xf | leaf1.eax >> 12 & 0xf0, 0x66);
    assert_eq!(leaf1.eax >> 8 & 0xf, 6);
    assert_eq!(leaf1.ecx & (1 << 2), 0, "DTES64");
    assert_eq!(leaf1.edx & (1 << 21), 0, "DS");
    assert_ne!(leaf1.ecx & (1 << 15), 0, "PDCM");
    assert_ne!(leaf1.ecx & (1 << 31), 0, "HYPERVISOR");
    assert_eq!(find(&table, 0xa, 0).eax, 0x0730_0402);
    let leaf7 = find(&table, 7, 0);
    assert_eq!(leaf7.ebx & (1 << 4 | 1 << 11 | 1 << 25), 0);
    assert_eq!(leaf7.edx & (1 << 13 | 1 << 15 | 1 << 19), 0);
    assert_eq!(find(&table, 0x8000_0000, 0).eax, 0x8000_0008);
    assert!(!table.iter().any(|e| e.leaf > 0x8000_0008));
    assert_eq!(find(&table, 0x8000_0001, 0).ecx & (1 << 23), 0);
    assert_ne!(find(&table, 0x4000_0000, 0).ebx, 0);
    assert_eq!(find(&table, 6, 0).ecx & 1, 0);
}

/// Linux sets DEBUGCTL[2] on a CPU that detects bus locks, and a #GP there is an
/// error in its log. The model has DEBUGCTL and not that bit; where KVM has the
/// register, it has the bit.
#[test]
fn bus_locks_are_detected_where_debugctl_is_kvms_alone() {
    let bit = |host: &[CpuidEntry], profile| {
        find(&plan(host, profile).table(VcpuId(0)), 7, 0).ecx >> 24 & 1
    };
    let host = intel_host();
    assert_eq!(bit(&host, Profile::IntelGeneric(PMU)), 0);
    assert_eq!(bit(&host, Profile::Host), 1);
    assert_eq!(bit(&amd_host(), Profile::Amd(AMD_V2)), 1);
}

/// G-011: a guest that takes itself for Intel's hypercalls by VMCALL. On another
/// vendor's host that faults, and KVM would patch it in read-only text: the
/// guest's lock then dies of a page fault (seen in `kvm_kick_cpu`).
#[test]
fn a_foreign_host_offers_nothing_that_needs_a_hypercall() {
    let host = amd_host();
    let features = |profile| find(&plan(&host, profile).table(VcpuId(0)), 0x4000_0001, 0).eax;
    let generic = features(Profile::IntelGeneric(PMU));
    for (bit, name) in [
        (7, "UNHALT"),
        (11, "SEND_IPI"),
        (13, "SCHED_YIELD"),
        (16, "MAP_GPA"),
    ] {
        assert_eq!(generic & 1 << bit, 0, "{name}");
    }
    assert_ne!(generic & 1 << 3, 0, "the KVM clock stays");
    assert_eq!(features(Profile::Host), !0, "its own hypercall works");
}

/// Guest-contract §5.6: the doorbell needs an interrupt table.
#[test]
fn a_guest_with_a_pmu_has_no_fred() {
    let subleaf = |subleaf, eax| CpuidEntry {
        subleaf,
        indexed: true,
        ..entry(7, [eax, !0, !0, !0])
    };
    for (mut host, profile) in [
        (intel_host(), Profile::IntelGeneric(PMU)),
        (amd_host(), Profile::Amd(AMD_V2)),
    ] {
        host.retain(|entry| entry.leaf != 7);
        host.extend([subleaf(0, 1), subleaf(1, 1 << 17 | 1 << 4)]);
        for (profile, fred) in [(profile, 0), (Profile::Host, 1 << 17)] {
            let table = plan(&host, profile).table(VcpuId(0));
            assert_eq!(find(&table, 7, 1).eax, fred | 1 << 4);
        }
    }
}

#[test]
fn without_a_pmu_the_host_cpu_stays_and_its_counters_go() {
    let host = amd_host();
    let table = plan(&host, Profile::Host).table(VcpuId(0));
    assert_eq!(find(&table, 0, 0).ebx, host[0].ebx);
    assert_eq!(find(&table, 1, 0).eax, host[1].eax);
    assert_eq!(find(&table, 1, 0).ecx & (1 << 15), 0);
    assert_eq!(find(&table, 0xa, 0).eax, 0);
    assert_eq!(find(&table, 0x8000_0001, 0).ecx & (1 << 23), 0);
    assert_eq!(find(&table, 0x8000_0022, 0).eax, 0);
}

/// With a PMU, a guest of the guest would write counters with a CR3 of its own.
#[test]
fn a_guest_is_a_host_if_it_was_asked_for_and_has_no_pmu() {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    let (intel, amd) = (intel_host(), amd_host());
    let with_pmu = [Profile::IntelGeneric(PMU), Profile::Amd(AMD_V2)];
    for (host, profile) in [&intel, &amd]
        .into_iter()
        .flat_map(|host| with_pmu.map(|profile| (host, profile)))
        .chain([(&intel, Profile::Host), (&amd, Profile::Host)])
    {
        for nested in [false, true] {
            let plan = CpuidPlan {
                nested,
                ..plan(host, profile)
            };
            let table = plan.table(VcpuId(0));
            let found = [
                find(&table, 1, 0).ecx & VMX != 0,
                find(&table, 0x8000_0001, 0).ecx & SVM != 0,
                table.iter().any(|entry| entry.leaf == 0x8000_000a),
            ];
            let has = |leaf: u32, bit: u32| {
                let entry = host.iter().find(|entry| entry.leaf == leaf);
                entry.is_some_and(|entry| entry.ecx & bit != 0)
            };
            let shown = nested && profile == Profile::Host;
            let expected = [
                shown && has(1, VMX),
                shown && has(0x8000_0001, SVM),
                shown && host.iter().any(|entry| entry.leaf == 0x8000_000a),
            ];
            assert_eq!(found, expected, "{profile:?} {nested}");
        }
    }
    assert!(
        intel
            .iter()
            .any(|entry| entry.leaf == 1 && entry.ecx & VMX != 0)
    );
    assert!(
        amd.iter()
            .any(|entry| entry.leaf == 0x8000_0001 && entry.ecx & SVM != 0)
    );
}

#[test]
fn every_vcpu_has_its_own_ids_and_the_same_shifts() {
    let host = amd_host();
    let plan = plan(&host, Profile::IntelGeneric(PMU));
    for n in 0..12 {
        let table = plan.table(VcpuId(n));
        let id = plan.topology.apic_id(VcpuId(n));
        assert_eq!(find(&table, 1, 0).ebx >> 24, id);
        assert_eq!(find(&table, 1, 0).ebx >> 16 & 0xff, 16);
        for subleaf in 0..3 {
            assert_eq!(find(&table, 0xb, subleaf).edx, id);
        }
        let levels: Vec<_> = (0..4)
            .map(|subleaf| find(&table, 0x1f, subleaf))
            .map(|e| (e.eax, e.ebx, e.ecx >> 8))
            .collect();
        assert_eq!(levels, [(1, 2, 1), (3, 6, 2), (4, 12, 5), (0, 0, 0)]);
        assert_eq!(find(&table, 0xb, 1).eax, 4);
        assert_eq!(find(&table, 4, 3).eax >> 14 & 0xfff, 7);
    }
}

/// Guest-contract §7.5, on hosts of either vendor: what 6.1 reads in
/// 8000001EH and 6.12 in 80000026H.
#[test]
fn an_amd_guest_has_its_dies_as_nodes_and_levels() {
    for host in [amd_host(), intel_host()] {
        let plan = plan(&host, Profile::Amd(AMD_V2));
        for n in 0..12 {
            let table = plan.table(VcpuId(n));
            let id = plan.topology.apic_id(VcpuId(n));
            assert!(find(&table, 0x8000_0000, 0).eax >= 0x8000_0026);
            assert_ne!(find(&table, 0x8000_0001, 0).ecx & 1 << 22, 0, "TOPOEXT");
            let leaf = find(&table, 0x8000_001e, 0);
            let core = id >> 1 & 7;
            assert_eq!((leaf.eax, leaf.ebx), (id, core | 1 << 8));
            assert_eq!(leaf.ecx, id >> 3 | 1 << 8);
            let levels: Vec<_> = (0..5)
                .map(|subleaf| find(&table, 0x8000_0026, subleaf))
                .map(|e| (e.eax, e.ebx, e.ecx >> 8, e.edx))
                .collect();
            let due = [(1, 2, 1), (3, 6, 2), (3, 6, 3), (4, 12, 4), (0, 0, 0)];
            assert_eq!(
                levels,
                due.map(|(shift, cpus, kind)| (shift, cpus, kind, id))
            );
            for (subleaf, sharing) in [(0, 1), (1, 1), (2, 1), (3, 7)] {
                let cache = find(&table, 0x8000_001d, subleaf);
                assert_eq!(cache.eax >> 14, sharing, "cache {subleaf}");
            }
        }
        let mut one = plan;
        one.topology.dies = 1;
        let table = one.table(VcpuId(0));
        assert!(!table.iter().any(|e| e.leaf == 0x8000_0026 && e.eax != 0));
    }
}

#[test]
fn the_hosts_own_caches_are_shared_as_the_topology_says() {
    let mut host = intel_host();
    host[2] = CpuidEntry {
        indexed: true,
        ..entry(4, [0x7c00_4121, 0x01c0_003f, 63, 0])
    };
    host.push(CpuidEntry {
        indexed: true,
        subleaf: 1,
        ..entry(4, [0x7c07_c163, 0x01c0_003f, 63, 0])
    });
    let table = plan(&host, Profile::Host).table(VcpuId(0));
    assert_eq!(find(&table, 4, 0).eax, 0x121 | 1 << 14 | 7 << 26);
    assert_eq!(find(&table, 4, 1).eax, 0x163 | 7 << 14 | 7 << 26);
}

/// Guest-contract §7.5: the L2 cache makes the cluster.
#[test]
fn cores_of_a_cluster_share_the_second_level() {
    let host = amd_host();
    let mut plan = plan(&host, Profile::IntelGeneric(PMU));
    let sharing = |plan: &CpuidPlan<'_>, subleaf| {
        (find(&plan.table(VcpuId(0)), 4, subleaf).eax >> 14 & 0xfff) + 1
    };
    assert_eq!([0, 2, 3].map(|cache| sharing(&plan, cache)), [2, 2, 8]);
    plan.topology.cores = 4;
    plan.topology.cluster = 2;
    assert_eq!([0, 2, 3].map(|cache| sharing(&plan, cache)), [2, 4, 8]);
}

/// 8000001EH counts the nodes of a package in three bits, and no leaf of AMD's
/// has Linux find clusters.
#[test]
fn an_amd_guest_has_at_most_eight_dies_and_no_clusters() {
    let host = amd_host();
    for (profile, tells) in [
        (Profile::Amd(AMD_V2), false),
        (Profile::Host, false),
        (Profile::IntelGeneric(PMU), true),
    ] {
        let mut plan = plan(&host, profile);
        plan.topology.dies = 8;
        assert_eq!(plan.cannot_tell(), None);
        plan.topology.dies = 9;
        assert_eq!(plan.cannot_tell().is_none(), tells, "{profile:?}");
        plan.topology.dies = 8;
        plan.topology.cluster = 3;
        assert_eq!(plan.cannot_tell().is_none(), tells, "{profile:?}");
    }
}

/// Rules of section 2.1, and G-201: the types differ and leaf 0AH does not.
#[test]
fn a_hybrid_guest_has_a_type_for_each_vcpu() {
    let host = amd_host();
    let cpus = crate::config::CpusConfig::with_types(12, "[core=[0-3],atom=[4-11]]");
    let mut plan = plan(&host, Profile::IntelGeneric(PMU));
    plan.core_types = cpus.core_types.as_ref();
    for (vcpu, native_model) in [(0, 0x4000_0000), (3, 0x4000_0000), (11, 0x2000_0000)] {
        let table = plan.table(VcpuId(vcpu));
        assert!(find(&table, 0, 0).eax >= 0x1a);
        let signature = find(&table, 1, 0).eax;
        assert_eq!(signature >> 4 & 0xf | signature >> 12 & 0xf0, 0x97);
        assert_ne!(find(&table, 7, 0).edx & 1 << 15, 0);
        assert_eq!(find(&table, 0x1a, 0).eax, native_model);
        assert_eq!(find(&table, 0xa, 0).eax, PMU.leaf_0a.eax.into_bits());
    }
}

#[test]
fn a_kvm_without_the_deadline_timer_is_not_lied_about() {
    let host = amd_host();
    let mut plan = plan(&host, Profile::Host);
    plan.tsc_deadline = false;
    assert_eq!(find(&plan.table(VcpuId(0)), 1, 0).ecx & (1 << 24), 0);
}

/// Guest-contract §6: what makes the drivers of uncore PMUs bind, and nothing of
/// it where it was not asked for.
#[test]
fn amd_guests_are_shown_the_uncore_pmus_that_they_have() {
    let host = amd_host();
    let all = UncoreModel::default().with_power(Power::new(PowerForm::Amd));
    let all = all.with_l3().with_df().with_umc(3).unwrap();
    let shown = |uncore| {
        let plan = CpuidPlan {
            uncore,
            ..plan(&host, Profile::Amd(AMD_V2))
        };
        let table = plan.table(VcpuId(0));
        let leaf_22 = find(&table, 0x8000_0022, 0);
        [
            find(&table, 0x8000_0001, 0).ecx & (1 << 24 | 1 << 28),
            find(&table, 0x8000_0007, 0).edx & 1 << 14,
            leaf_22.ebx,
            leaf_22.ecx,
        ]
    };
    assert_eq!(shown(UncoreModel::default()), [0, 0, 6, 0]);
    assert_eq!(
        shown(all),
        [1 << 24 | 1 << 28, 1 << 14, 6 | 4 << 10 | 12 << 16, 7]
    );
    let core = CpuidPlan {
        uncore: UncoreModel::default().with_df(),
        ..plan(
            &host,
            Profile::Amd(AmdLeaves {
                leaf_22: None,
                ..AMD_V2
            }),
        )
    };
    let table = core.table(VcpuId(0));
    assert_eq!(find(&table, 0x8000_0022, 0).eax, 0);
    assert_ne!(find(&table, 0x8000_0001, 0).ecx & 1 << 24, 0);
}
