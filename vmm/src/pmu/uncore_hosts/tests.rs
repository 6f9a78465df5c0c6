//! Tests on a recorded sysfs tree. Opening an event would open one of the real
//! machine, so the tests cover only the steps before.

use super::*;
use crate::config::Topology;

include!("../../../../vpmu/tests/data/sysfs/unpack.rs");

const ZEN: &str = include_str!("../../../../vpmu/tests/data/sysfs/zen.tree");

fn asked(text: &str) -> UncoreArg {
    UncoreArg::parse(text).unwrap()
}

fn refusal(text: &str, guest: &str) -> (String, bool) {
    let tree = Tree::unpack(&format!("hosts-{guest}-{text}").replace(',', "-"), ZEN);
    let guest = ModelKind::from_name(guest).unwrap();
    let found = UncoreHosts::find(asked(text), guest, &CpusConfig::flat(1), &tree.sysfs());
    let error = found.unwrap_err();
    (crate::error_text::one_line(&error), error.is_usage())
}

#[test]
fn what_does_not_go_together_is_told_with_what_would() {
    for (text, guest, parts) in [
        (
            "amd_l3=on",
            "intel-v2",
            ["amd_l3=on", "intel-v2", "model=amd-core or amd-v2"],
        ),
        (
            "amd_df=on",
            "amd-k7",
            ["amd_df=on", "amd-k7", "model=amd-core or amd-v2"],
        ),
        (
            "amd_umc=on",
            "amd-core",
            ["amd_umc=on", "amd-core", "model=amd-v2"],
        ),
    ] {
        let (message, is_usage) = refusal(text, guest);
        assert!(
            is_usage && parts.iter().all(|part| message.contains(part)),
            "{message}"
        );
    }
    for (text, guest, parts) in [
        // The recorded tree has no scale for its energy.
        (
            "power=on",
            "intel-v2",
            ["power=on", "Joules", "perfvisor doctor"],
        ),
        (
            "amd_umc=on",
            "amd-v2",
            ["amd_umc=on", "no PMU amd_umc_0", "perfvisor doctor"],
        ),
    ] {
        let (message, is_usage) = refusal(text, guest);
        assert!(
            !is_usage && parts.iter().all(|part| message.contains(part)),
            "{message}"
        );
    }
}

#[test]
fn nothing_asked_is_nothing_found() {
    let sysfs = Sysfs::at(std::path::Path::new("/nonexistent"));
    let guest = ModelKind::INTEL_GENERIC;
    let found = UncoreHosts::find(asked("share=raw"), guest, &CpusConfig::flat(1), &sysfs);
    assert!(found.unwrap().is_none());
}

fn hosts(cpus: CpusConfig) -> UncoreHosts {
    let times = Arc::new(VcpuTimes::new(cpus.max));
    UncoreHosts {
        model: UncoreModel::default().with_l3(),
        places: Vec::new(),
        share: Share::Raw,
        cpus,
        times,
    }
}

#[test]
fn an_instance_is_behind_the_vcpus_that_are_bound_to_it() {
    let tree = Tree::unpack("behind", ZEN);
    let l3 = UncoreSource::find(&tree.sysfs(), "amd_l3").unwrap();
    let l3: Vec<_> = l3.places().collect();
    let behind = |hosts: &UncoreHosts, n, vcpus: &[VcpuId]| {
        let place = hosts.behind(&l3, n, vcpus).unwrap();
        place.cpus().to_string()
    };
    let mut cpus = CpusConfig::flat(4);
    cpus.topology = Topology {
        threads: 1,
        cluster: 1,
        cores: 2,
        dies: 2,
        packages: 1,
    };
    let free = hosts(cpus.clone());
    let members = free.members(UncorePmu::L3);
    assert_eq!(members, [[VcpuId(0), VcpuId(1)], [VcpuId(2), VcpuId(3)]]);
    assert_eq!(behind(&free, 0, &members[0]), "0");
    assert_eq!(behind(&free, 1, &members[1]), "2");
    assert_eq!(behind(&free, 2, &members[1]), "0", "counted round");
    // Both dies on the second complex, which CPU 2 stands for.
    let bound = hosts(cpus.bound("[0@[2],1@[2],2@[2],3@[2]]"));
    assert_eq!(behind(&bound, 0, &members[0]), "2");
    assert_eq!(behind(&bound, 1, &members[1]), "2");
}

/// A host of two nodes with two controllers each, as Linux 6.12 numbers them, and
/// as one that names those of both nodes alike.
#[test]
fn memory_controllers_are_numbered_within_their_node() {
    let cpus = "devices/system/cpu/online: 0-3\n".to_owned();
    let topology = (0..4).map(|cpu| {
        let node = if cpu < 2 { "0-1" } else { "2-3" };
        let dir = format!("devices/system/cpu/cpu{cpu}/topology");
        format!(
            "{dir}/core_cpus_list: {cpu}\n{dir}/cluster_cpus_list: {cpu}\n\
             {dir}/die_cpus_list: {node}\n{dir}/package_cpus_list: {node}\n"
        )
    });
    let cpus = cpus + &topology.collect::<String>();
    for (name, masks, units) in [
        (
            "on",
            &["0", "0", "2", "2"][..],
            ["amd_umc_0 amd_umc_2", "amd_umc_1 amd_umc_3"],
        ),
        (
            "alike",
            &["0,2", "0,2"],
            ["amd_umc_0 amd_umc_0", "amd_umc_1 amd_umc_1"],
        ),
        // One node has a controller more.
        (
            "odd",
            &["0", "0", "0", "2", "2"],
            ["amd_umc_0 amd_umc_3", "amd_umc_1 amd_umc_4"],
        ),
    ] {
        let device = |(n, mask): (usize, &&str)| {
            let dir = format!("bus/event_source/devices/amd_umc_{n}");
            format!("{dir}/type: {}\n{dir}/cpumask: {mask}\n", 20 + n)
        };
        let devices: String = masks.iter().enumerate().map(device).collect();
        let tree = Tree::unpack(&format!("umc-{name}"), &format!("{cpus}{devices}"));
        let find = |n| UncoreSource::find(&tree.sysfs(), &format!("amd_umc_{n}")).unwrap();
        let found = umc_units((0..masks.len()).map(find).collect());
        let names = |unit: &Vec<UncorePlace>| {
            let names: Vec<_> = unit.iter().map(|place| place.source().name()).collect();
            names.join(" ")
        };
        assert_eq!(found.iter().map(names).collect::<Vec<_>>(), units, "{name}");
    }
}
