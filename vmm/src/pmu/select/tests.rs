//! Tests on recorded sysfs trees (`vpmu/tests/data/sysfs`), with a host that counts
//! every event on every core PMU, or refuses.

use super::*;
use clap::Parser;
use vpmu::guest::CoreType;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::VcpuId;

include!("../../../../vpmu/tests/data/sysfs/unpack.rs");

const ALDER_LAKE: &str = include_str!("../../../../vpmu/tests/data/sysfs/alder-lake.tree");
const ZEN: &str = include_str!("../../../../vpmu/tests/data/sysfs/zen.tree");
const ARM: &str = include_str!("../../../../vpmu/tests/data/sysfs/arm-big-little.tree");
const NO_PMU: &str = include_str!("../../../../vpmu/tests/data/sysfs/no-pmu.tree");

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

/// `--cpus` and `--pmu`, as the command line has them.
fn flags(cpus: &str, pmu: &str) -> (CpusConfig, PmuKind) {
    let args = [
        "perfvisor",
        "run",
        "--kernel=k",
        "--cpus",
        cpus,
        "--pmu",
        pmu,
    ];
    let crate::cli::Command::Run(args) = crate::cli::Cli::parse_from(args).command else {
        panic!("it is run");
    };
    let config = args.vm_config().unwrap();
    let crate::config::PmuArg::On(pmu) = config.pmu else {
        panic!("it is on");
    };
    (config.cpus, pmu.kind)
}

fn errno(number: i32) -> PerfOpenError {
    std::io::Error::from_raw_os_error(number).into()
}

/// Counts everything on PMUs that the recorded hosts have as core PMUs.
fn counts(source: EventSource) -> Result<Counted, PerfOpenError> {
    match source {
        EventSource::Hardware | EventSource::Pmu(PmuType(4 | 7 | 8 | 10)) => Ok(Counted {
            events: ArchEventSet::ALL,
            standard: StandardSet::ALL,
            by_code: StandardSet::EMPTY,
        }),
        EventSource::Pmu(_) => Err(errno(libc::ENOENT)),
    }
}

/// A recorded host, on all or some of whose CPUs this process may run.
struct Host {
    pmus: PmuRegistry,
    cpus: HostCpus,
}

impl Host {
    fn new(name: &str, tree: &str) -> Self {
        let tree = Tree::unpack(&format!("select-{name}"), tree);
        let online = tree.sysfs().online_cpus().unwrap();
        Self {
            pmus: PmuRegistry::read(&tree.sysfs()).unwrap(),
            cpus: HostCpus {
                allowed: online.clone(),
                online,
            },
        }
    }

    /// The backing, and where each vCPU is bound to and has to stay.
    fn run(&self, cpus: &str, pmu: &str) -> Result<(PmuBacking, Vec<[String; 2]>), SelectError> {
        let (cpus, kind) = flags(cpus, pmu);
        let backing = Selector {
            pmus: &self.pmus,
            host: &self.cpus,
            cpus: &cpus,
            probe: &counts,
            mediated: None,
        }
        .select(&kind)?;
        let text = |cpus: Option<CpuSet>| cpus.map_or("any".to_owned(), |cpus| cpus.to_string());
        let places = place(&cpus, Some(&backing), &self.cpus)?;
        let places = places.into_iter().map(|place| {
            [
                text(place.bind),
                text(place.required_cpus.map(|required| required.cpus)),
            ]
        });
        Ok((backing, places.collect()))
    }

    /// The choice where this host says `number` to each event, maybe with a mediated vPMU.
    fn refusing(
        &self,
        pmu: &str,
        number: i32,
        mediated: Option<&'static str>,
    ) -> Result<PmuBacking, SelectError> {
        let (cpus, kind) = flags("boot=1", pmu);
        Selector {
            pmus: &self.pmus,
            host: &self.cpus,
            cpus: &cpus,
            probe: &|_| Err(errno(number)),
            mediated,
        }
        .select(&kind)
    }

    fn refuses(&self, cpus: &str, pmu: &str, parts: &[&str]) {
        let error = self.run(cpus, pmu).unwrap_err();
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{cpus} {pmu}: no {part:?} in {text}");
        }
        assert!(error.is_usage(), "{text}");
    }
}

fn source(backing: &PmuBacking) -> EventSource {
    match backing {
        PmuBacking::Hardware(source) => source.source,
        other => panic!("not one PMU: {other}"),
    }
}

#[test]
fn one_kind_of_a_hybrid_host_binds_the_vcpus_to_its_cpus() {
    let host = Host::new("kind", ALDER_LAKE);
    for (pmu, number, cpus) in [
        ("type=core", 4, "0-3"),
        ("type=cpu_core", 4, "0-3"),
        ("type=atom", 10, "4-11"),
        ("type=10", 10, "4-11"),
    ] {
        let (backing, places) = host.run("boot=2", pmu).unwrap();
        assert_eq!(source(&backing), EventSource::Pmu(PmuType(number)), "{pmu}");
        let place = [cpus.to_owned(), cpus.to_owned()];
        assert_eq!(places, [place.clone(), place], "{pmu}");
    }
}

#[test]
fn an_affinity_inside_the_pmus_cpus_is_kept_and_another_refused() {
    let host = Host::new("affinity", ALDER_LAKE);
    let (_, places) = host.run("boot=2,affinity=[1@[2,3]]", "type=core").unwrap();
    assert_eq!(places, [["0-3", "0-3"], ["2-3", "0-3"]]);
    for asked in ["4", "3,4", "0-11"] {
        host.refuses(
            &format!("boot=1,affinity=[0@[{asked}]]"),
            "type=core",
            &["affinity=0@", "cpu_core", "host CPUs 0-3 only", "type=auto"],
        );
    }
    host.refuses(
        "boot=1,affinity=[0@[12]]",
        "type=software",
        &["0@[12]", "host CPUs 0-11 are online"],
    );
}

#[test]
fn where_this_process_may_run_narrows_and_can_leave_nothing() {
    let mut host = Host::new("allowed", ALDER_LAKE);
    host.cpus.allowed = set("3-5");
    let (_, places) = host.run("boot=1", "type=core").unwrap();
    assert_eq!(places, [["3", "0-3"]]);
    host.cpus.allowed = set("4-11");
    host.refuses("boot=1", "type=core", &["0-3", "4-11", "taskset"]);
    let (_, places) = host.run("boot=1,affinity=[0@[0]]", "type=core").unwrap();
    assert_eq!(places, [["0", "0-3"]], "said explicitly");
}

#[test]
fn auto_on_a_hybrid_host_adds_both_kinds_and_lets_vcpus_roam() {
    let host = Host::new("auto", ALDER_LAKE);
    let (backing, places) = host.run("boot=1,affinity=[0@[3,4]]", "type=auto").unwrap();
    assert!(matches!(&backing, PmuBacking::Sum(parts) if parts.len() == 2));
    assert_eq!(backing.name(), "cpu_atom+cpu_core");
    assert_eq!(backing.events(), ArchEventSet::ALL);
    assert_eq!(places, [["3-4", "any"]]);
    let (_, places) = host.run("boot=1", "type=auto").unwrap();
    assert_eq!(places, [["any", "any"]]);
}

#[test]
fn auto_never_counts_in_part() {
    let only_core: String = ALDER_LAKE
        .lines()
        .filter(|line| !line.contains("cpu_atom"))
        .map(|line| format!("{line}\n"))
        .collect();
    let host = Host::new("part", &only_core);
    let (backing, _) = host.run("boot=1", "type=auto").unwrap();
    assert_eq!(backing, PmuBacking::Software(Reason::PartOfTheHost));
    let (backing, places) = host.run("boot=1,affinity=[0@[1]]", "type=auto").unwrap();
    assert_eq!(source(&backing), EventSource::Hardware, "the only core PMU");
    assert_eq!(places, [["1", "0-3"]], "and there it must stay");
}

#[test]
fn a_hybrid_guest_has_each_vcpu_on_the_pmu_of_its_type() {
    let host = Host::new("hybrid", ALDER_LAKE);
    let cpus = "boot=3,core-types=[core=[0],atom=[1-2]],affinity=[2@[11]]";
    let (backing, places) = host.run(cpus, "type=hybrid").unwrap();
    assert_eq!(places, [["0-3", "0-3"], ["4-11", "4-11"], ["11", "4-11"]]);
    let types = backing.core_types().unwrap();
    assert_eq!(types.of(VcpuId(0)), CoreType::Core);
    assert_eq!(types.of(VcpuId(2)), CoreType::Atom);
    host.refuses(
        "boot=2,core-types=[core=[0],atom=[1]],affinity=[1@[0]]",
        "type=hybrid",
        &["affinity=1@[0]", "cpu_atom", "4-11"],
    );
}

#[test]
fn what_a_host_has_not_is_refused_with_what_it_has() {
    let zen = Host::new("zen", ZEN);
    zen.refuses(
        "boot=1",
        "type=core",
        &["cpu_core", "are cpu;", "type=auto"],
    );
    zen.refuses(
        "boot=1,core-types=[core=[0]]",
        "type=hybrid",
        &["not hybrid", "cpu_core and cpu_atom", "are cpu;"],
    );
    let none = Host::new("absent", NO_PMU);
    none.refuses("boot=1", "type=atom", &["are none"]);
    for pmu in ["type=cpu_big", "type=99"] {
        none.refuses("boot=1", pmu, &["this host has breakpoint, kprobe, msr"]);
    }
    zen.refuses(
        "boot=1",
        "type=power",
        &["type=power", "no architectural event"],
    );
}

#[test]
fn homogeneous_and_unknown_hosts_need_no_binding() {
    let zen = Host::new("homogeneous", ZEN);
    for pmu in ["type=auto", "type=cpu", "type=4"] {
        let (backing, places) = zen.run("boot=1", pmu).unwrap();
        assert_eq!(source(&backing), EventSource::Hardware, "{pmu}");
        assert_eq!(places, [["any", "any"]], "{pmu}");
    }
    let arm = Host::new("arm", ARM);
    let (backing, places) = arm.run("boot=1", "type=auto").unwrap();
    assert_eq!(backing.name(), "armv8_cortex_a53+armv8_cortex_a57");
    assert_eq!(places, [["any", "any"]]);
    let (_, places) = arm.run("boot=1", "type=armv8_cortex_a57").unwrap();
    assert_eq!(places, [["1-2", "1-2"]]);
}

#[test]
fn a_host_without_a_core_pmu_is_backed_by_a_clock() {
    let host = Host::new("clock", NO_PMU);
    let (backing, places) = host.run("boot=1", "type=auto").unwrap();
    assert_eq!(backing, PmuBacking::Software(Reason::NoHostPmu));
    assert_eq!(backing.events().unavailable_mask(), 0x7e, "G-101");
    assert_eq!(places, [["any", "any"]]);
}

#[test]
fn a_pmu_that_says_no_is_not_taken() {
    let host = Host::new("no", ZEN);
    let select = |pmu, number| host.refusing(pmu, number, None);
    assert_eq!(
        select("type=auto", libc::EOPNOTSUPP).unwrap(),
        PmuBacking::Software(Reason::CountsNothing)
    );
    for pmu in ["type=auto", "type=cpu"] {
        let error = select(pmu, libc::EACCES).unwrap_err();
        let text = error.to_string();
        for part in [pmu, "CAP_PERFMON", "perf_event_paranoid", "type=software"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!error.is_usage(), "exit status 1");
    }
}

/// Linux 7.0: `mediated_pmu_account_event` refuses each event that counts guests while a VM
/// with a mediated vPMU lives.
#[test]
fn a_pmu_that_a_mediated_vpmu_has_is_named() {
    let host = Host::new("mediated", ZEN);
    let select = |pmu, number| host.refusing(pmu, number, Some("kvm_amd"));
    let backing = select("type=auto", libc::EOPNOTSUPP).unwrap();
    assert_eq!(backing, PmuBacking::Software(Reason::Mediated("kvm_amd")));
    let text = backing.to_string();
    assert!(
        text.contains("load kvm_amd with enable_mediated_pmu=0"),
        "{text}"
    );

    let error = select("type=cpu", libc::EOPNOTSUPP).unwrap_err();
    let text = error.to_string();
    for part in ["--pmu type=cpu", "enable_mediated_pmu=0", "type=software"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!error.is_usage(), "exit status 1");

    let other = select("type=cpu", libc::ENOENT).unwrap_err();
    assert!(
        matches!(other, SelectError::CountsNothing { .. }),
        "another reason"
    );
}

/// On the machine itself, through the system calls.
#[test]
fn a_pmu_that_counts_no_guest_event_is_refused() {
    let tree = Tree::unpack(
        "select-useless",
        "bus/event_source/devices/nothing/type: 65000",
    );
    let (cpus, kind) = flags("boot=1", "type=65000");
    let error = select(&kind, &cpus, &tree.sysfs(), &HostCpus::read(&tree.sysfs())).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("type=nothing") && text.contains("type=software"),
        "{text}"
    );
}
