//! On recorded trees: a hybrid client, a Zen, an Arm big.LITTLE board and a
//! machine without a PMU.

use super::*;
use crate::ids::HostCpu;

include!("../../../../tests/data/sysfs/unpack.rs");

const ALDER_LAKE: &str = include_str!("../../../../tests/data/sysfs/alder-lake.tree");
const ZEN: &str = include_str!("../../../../tests/data/sysfs/zen.tree");
const ARM: &str = include_str!("../../../../tests/data/sysfs/arm-big-little.tree");
const NO_PMU: &str = include_str!("../../../../tests/data/sysfs/no-pmu.tree");

fn cores(registry: &PmuRegistry) -> Vec<(&str, u32, Option<String>)> {
    let mut cores = Vec::new();
    for pmu in registry.cores() {
        cores.push((
            pmu.name.as_str(),
            pmu.kind.0,
            pmu.cpus().map(ToString::to_string),
        ));
    }
    cores
}

#[test]
fn core_pmus_are_found_by_what_they_list_and_not_by_name_alone() {
    let on = |cpus: &str| Some(cpus.to_owned());
    for (name, text, expected) in [
        (
            "hybrid",
            ALDER_LAKE,
            vec![("cpu_atom", 10, on("4-11")), ("cpu_core", 4, on("0-3"))],
        ),
        ("zen", ZEN, vec![("cpu", 4, None)]),
        (
            "arm",
            ARM,
            vec![
                ("armv8_cortex_a53", 8, on("0,3-5")),
                ("armv8_cortex_a57", 7, on("1-2")),
            ],
        ),
        ("none", NO_PMU, vec![]),
    ] {
        let tree = Tree::unpack(&format!("cores-{name}"), text);
        let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
        assert_eq!(cores(&registry), expected, "{name}");
    }
}

#[test]
fn a_pmu_is_found_by_type_and_by_name() {
    let tree = Tree::unpack("lookup", ALDER_LAKE);
    let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
    assert_eq!(
        registry.iter().count(),
        ALDER_LAKE.matches("/type: ").count()
    );
    for pmu in registry.iter() {
        assert_eq!(registry.by_type(pmu.kind), Some(pmu));
        assert_eq!(registry.by_name(&pmu.name), Some(pmu));
    }
    assert_eq!(registry.by_type(PmuType(4)).unwrap().name, "cpu_core");
    assert_eq!(registry.by_type(PmuType(99)), None);
    assert_eq!(registry.by_name("cpu"), None);
}

#[test]
fn an_events_name_becomes_the_words_that_the_formats_say() {
    let tree = Tree::unpack("encode", ALDER_LAKE);
    let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
    let core = tree.sysfs().details(registry.by_name("cpu_core").unwrap());
    assert_eq!(core.caps.get("pmu_name").unwrap(), "alderlake_hybrid");
    let loads = RawConfig {
        config: 0x01cd,
        config1: 3,
        config2: 0,
    };
    assert_eq!(core.encode("mem-loads"), Ok(loads));
    assert_eq!(
        core.encode("event=0x3c,inv,cmask=2").unwrap().config,
        0x0280_003c
    );
    assert!(matches!(
        core.encode("depth=1"),
        Err(EncodeError::UnknownField(_))
    ));
    for text in ["event=0x100", "event=x", "inv=2"] {
        assert!(
            matches!(core.encode(text), Err(EncodeError::Value { .. })),
            "{text}"
        );
    }
    let power = tree.sysfs().details(registry.by_name("power").unwrap());
    assert_eq!(power.events.len(), 1, "scales and units are no events");
    assert_eq!(
        power.units.get("energy-pkg").map(String::as_str),
        Some("Joules")
    );
    assert_eq!(core.config_bits(&["event", "umask", "nonesuch"]), 0xffff);

    let tree = Tree::unpack("encode-zen", ZEN);
    let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
    let zen = tree.sysfs().details(registry.by_name("cpu").unwrap());
    assert_eq!(zen.encode("event=0x187").unwrap().config, 0x1_0000_0087);
}

#[test]
fn generic_events_carry_the_type_where_there_are_several_core_pmus() {
    let tree = Tree::unpack("address", ALDER_LAKE);
    let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
    let atom = registry.by_name("cpu_atom").unwrap();
    let by_type = registry.source(atom);
    let instructions = by_type.generic(GenericEvent::Hardware(1));
    assert_eq!(
        (instructions.kind, instructions.config.config),
        (0, 0xa_0000_0001)
    );
    let l1d_misses = by_type.generic(GenericEvent::Cache(0x1_0000));
    assert_eq!(
        (l1d_misses.kind, l1d_misses.config.config),
        (3, 0xa_0001_0000)
    );
    let config = RawConfig::of(0xc0);
    assert_eq!(by_type.raw(config), EventAddress { kind: 10, config });

    let tree = Tree::unpack("address-zen", ZEN);
    let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
    let only = registry.source(registry.by_name("cpu").unwrap());
    let cycles = only.generic(GenericEvent::Hardware(0));
    assert_eq!((cycles.kind, cycles.config.config), (0, 0));
    assert_eq!(only.raw(config), EventAddress { kind: 4, config });
    let power = registry.by_name("amd_l3").unwrap();
    assert_eq!(registry.source(power), EventSource::Pmu(power.kind));
}

#[test]
fn scopes_are_concluded_from_the_mask() {
    let scope = |name: &str, text, pmu| {
        let tree = Tree::unpack(&format!("scope-{name}-{pmu}"), text);
        let registry = PmuRegistry::read(&tree.sysfs()).unwrap();
        let sysfs = tree.sysfs();
        sysfs.scope(registry.by_name(pmu).unwrap()).unwrap()
    };
    assert_eq!(scope("adl", ALDER_LAKE, "power"), Some(PmuScope::System));
    assert_eq!(
        scope("adl", ALDER_LAKE, "cstate_core"),
        Some(PmuScope::Core)
    );
    assert_eq!(scope("adl", ALDER_LAKE, "cpu_core"), None, "no cpumask");
    assert_eq!(
        scope("zen", ZEN, "amd_l3"),
        None,
        "no level of the kernel's"
    );
}

#[test]
fn instances_are_groups_of_the_topology_or_of_the_last_cache() {
    let instances = |name: &str, text: &str, pmu| {
        let tree = Tree::unpack(&format!("instances-{name}-{pmu}"), text);
        let pmu = tree.sysfs().pmu(pmu).unwrap().unwrap();
        let instances = tree.sysfs().instances(&pmu).unwrap();
        let text = |(cpu, group): &(HostCpu, CpuSet)| format!("{}: {group}", cpu.0);
        instances.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(instances("zen", ZEN, "power"), ["0: 0-7"]);
    assert_eq!(
        instances("zen", ZEN, "amd_l3"),
        ["0: 0", "2: 2"],
        "no cache told"
    );
    let caches = (0..8).map(|cpu| {
        let (first, second) = if cpu % 4 < 2 {
            ("0-1", "4-5")
        } else {
            ("2-3", "6-7")
        };
        format!(
            "devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list: {first},{second}\n\
                 devices/system/cpu/cpu{cpu}/cache/index0/shared_cpu_list: {cpu}\n\
                 devices/system/cpu/cpu{cpu}/cache/index1/shared_cpu_list: {cpu}\n\
                 devices/system/cpu/cpu{cpu}/cache/index2/shared_cpu_list: {cpu}\n"
        )
    });
    let zen = format!("{}\n{}", ZEN.trim_end(), caches.collect::<String>());
    assert_eq!(
        instances("zen-caches", &zen, "amd_l3"),
        ["0: 0-1,4-5", "2: 2-3,6-7"]
    );
    assert_eq!(
        instances("adl", ALDER_LAKE, "cpu_core"),
        Vec::<String>::new()
    );
    assert_eq!(
        Sysfs::at(Path::new("/nonexistent")).pmu("power").unwrap(),
        None
    );
}

#[test]
fn a_malformed_tree_is_an_error_that_names_the_file() {
    let tree = Tree::unpack("type", "bus/event_source/devices/cpu/type: four");
    let text = tree.sysfs().pmus().unwrap_err().to_string();
    assert!(text.contains("cpu/type") && text.contains("four"), "{text}");
    let list = "bus/event_source/devices/x/type: 4\nbus/event_source/devices/x/cpus: 0-x";
    let tree = Tree::unpack("list", list);
    let text = tree.sysfs().pmus().unwrap_err().to_string();
    assert!(text.contains("x/cpus") && text.contains("0-x"), "{text}");
}

#[test]
fn no_perf_is_no_pmu() {
    assert_eq!(Sysfs::at(Path::new("/nonexistent")).pmus().unwrap(), []);
}
