//! `--cpus`.

use std::fmt;

use vpmu::ids::VcpuId;

use super::ConfigError;
use super::affinity::{AFFINITY, Affinity, CORE_TYPES, CoreTypes};
use super::options::{Flag, Options};

/// The most vCPUs: APIC ids below 255 name them all without interrupt remapping.
pub const MAX_VCPUS: u16 = 254;

const FLAG: Flag = Flag {
    name: "--cpus",
    keys: &[
        "boot",
        "max",
        "topology",
        "affinity",
        "core-types",
        "nested",
    ],
    accepted: "boot=N[,max=N][,topology=threads:cores[:clusters]:dies:packages][,affinity=[VCPU@[CPUS],…]][,core-types=[core=[VCPUS],atom=[VCPUS]]][,nested=on|off]",
};
const COUNT: &str = "1 to 254";
const TOPOLOGY: &str = "threads:cores:dies:packages, each 1 to 254, such as 2:4:1:1, or threads:cores:clusters:dies:packages with clusters of cores that share an L2 cache";

/// How many vCPUs share what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Threads per core.
    pub threads: u16,
    /// Cores per die.
    pub cores: u16,
    /// Cores that share an L2 cache; `cores` is a multiple of it. 1 without
    /// clusters.
    pub cluster: u16,
    /// Dies per package.
    pub dies: u16,
    /// Packages.
    pub packages: u16,
}

impl Topology {
    /// One package with one die of single-threaded cores.
    #[must_use]
    pub fn flat(cpus: u16) -> Self {
        Self {
            threads: 1,
            cores: cpus,
            cluster: 1,
            dies: 1,
            packages: 1,
        }
    }

    /// How many CPUs it describes.
    #[must_use]
    pub fn cpus(&self) -> u64 {
        [self.threads, self.cores, self.dies, self.packages]
            .into_iter()
            .map(u64::from)
            .product()
    }

    /// How many CPUs a die has.
    #[must_use]
    pub fn cpus_per_die(&self) -> u32 {
        u32::from(self.threads) * u32::from(self.cores)
    }

    /// How many CPUs a package has.
    #[must_use]
    pub fn cpus_per_package(&self) -> u32 {
        self.cpus_per_die() * u32::from(self.dies)
    }

    /// The same for scopes: who shares a die, a package.
    #[must_use]
    pub const fn scopes(&self) -> vpmu::sched::ScopeTopology {
        vpmu::sched::ScopeTopology {
            packages: self.packages,
            dies: self.dies,
            cores: self.cores,
            threads: self.threads,
            cluster: self.cluster,
        }
    }

    /// The bit of the APIC id where the core number starts.
    #[must_use]
    pub fn core_shift(&self) -> u32 {
        log2_up(self.threads)
    }

    /// The bit of the APIC id where the cluster number starts; without
    /// clusters, each core is one.
    #[must_use]
    pub fn cluster_shift(&self) -> u32 {
        self.core_shift() + log2_up(self.cluster)
    }

    /// The bit of the APIC id where the die number starts.
    #[must_use]
    pub fn die_shift(&self) -> u32 {
        self.cluster_shift() + log2_up(self.cores / self.cluster.max(1))
    }

    /// The bit of the APIC id where the package number starts.
    #[must_use]
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + log2_up(self.dies)
    }

    /// The APIC id of a vCPU: thread, core, cluster, die and package number from
    /// low bits to high, each in a field of its own. Ids are dense only where each
    /// count is a power of two.
    #[must_use]
    pub fn apic_id(&self, vcpu: VcpuId) -> u32 {
        let index = u32::from(vcpu.0);
        let [threads, cores, cluster, dies] =
            [self.threads, self.cores, self.cluster, self.dies].map(|n| u32::from(n.max(1)));
        let thread = index % threads;
        let core = index / threads % cores;
        let die = index / (threads * cores) % dies;
        let package = index / (threads * cores * dies);
        thread
            | (core % cluster) << self.core_shift()
            | (core / cluster) << self.cluster_shift()
            | die << self.die_shift()
            | package << self.package_shift()
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.threads)?;
        if self.cluster > 1 {
            write!(f, "{}:{}", self.cluster, self.cores / self.cluster)?;
        } else {
            write!(f, "{}", self.cores)?;
        }
        write!(f, ":{}:{}", self.dies, self.packages)
    }
}

/// The width of a field that holds `count` numbers.
fn log2_up(count: u16) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// The vCPUs of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpusConfig {
    /// How many run from the start.
    pub boot: u16,
    /// How many there can be.
    pub max: u16,
    /// How they are arranged.
    pub topology: Topology,
    /// The host CPUs that vCPUs may run on, where that was asked for.
    pub affinity: Affinity,
    /// Which vCPUs are of which type, in a hybrid guest.
    pub core_types: Option<CoreTypes>,
    /// Whether the guest is shown the host's virtualisation extension, VMX or SVM.
    pub nested: bool,
}

impl CpusConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        options.require("boot")?;
        let boot = options.number("boot", 1..=MAX_VCPUS, COUNT)?.unwrap_or(1);
        let max = options.number("max", 1..=MAX_VCPUS, COUNT)?.unwrap_or(boot);
        if max < boot {
            return Err(ConfigError::MaxBelowBoot { boot, max });
        }
        let topology = match options.get("topology") {
            None => Topology::flat(max),
            Some(text) => {
                parse_topology(text).ok_or_else(|| options.bad("topology", text, TOPOLOGY))?
            }
        };
        if topology.cpus() != u64::from(max) {
            return Err(ConfigError::TopologyProduct { topology, max });
        }
        let apic_id = topology.apic_id(VcpuId(max - 1));
        if apic_id >= 255 {
            return Err(ConfigError::ApicIds { topology, apic_id });
        }
        let affinity = options
            .get("affinity")
            .map_or(Ok(Affinity::default()), |text| {
                Affinity::parse(text, max).ok_or_else(|| options.bad("affinity", text, AFFINITY))
            })?;
        let core_types = options.get("core-types").map(|text| {
            CoreTypes::parse(text, max).ok_or_else(|| options.bad("core-types", text, CORE_TYPES))
        });
        let nested = match options.get("nested") {
            None | Some("off") => false,
            Some("on") => true,
            Some(text) => return Err(options.bad("nested", text, "on or off")),
        };
        Ok(Self {
            boot,
            max,
            topology,
            affinity,
            core_types: core_types.transpose()?,
            nested,
        })
    }

    /// So many vCPUs, nothing else asked for.
    #[must_use]
    pub fn flat(cpus: u16) -> Self {
        Self {
            boot: cpus,
            max: cpus,
            topology: Topology::flat(cpus),
            affinity: Affinity::default(),
            core_types: None,
            nested: false,
        }
    }

    /// As [`CpusConfig::flat`], of these types.
    #[cfg(test)]
    pub(crate) fn with_types(cpus: u16, types: &str) -> Self {
        Self {
            core_types: CoreTypes::parse(types, cpus),
            ..Self::flat(cpus)
        }
    }

    /// The same, with its threads bound so.
    #[cfg(test)]
    pub(crate) fn bound(self, affinity: &str) -> Self {
        Self {
            affinity: Affinity::parse(affinity, self.max).unwrap_or_default(),
            ..self
        }
    }

    /// Every possible vCPU, the boot CPU first.
    pub fn possible(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..self.max).map(VcpuId)
    }
}

fn parse_topology(text: &str) -> Option<Topology> {
    let counts: Option<Vec<u16>> = text
        .split(':')
        .map(|part| part.parse().ok().filter(|n| (1..=MAX_VCPUS).contains(n)))
        .collect();
    let (threads, cluster, clusters, dies, packages) = match counts?[..] {
        [threads, cores, dies, packages] => (threads, 1, cores, dies, packages),
        [threads, cluster, clusters, dies, packages] => {
            (threads, cluster, clusters, dies, packages)
        }
        _ => return None,
    };
    Some(Topology {
        threads,
        cores: cluster.checked_mul(clusters)?,
        cluster,
        dies,
        packages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_packed_with_rounded_up_shifts() {
        let topology = Topology {
            threads: 2,
            cores: 3,
            cluster: 1,
            dies: 2,
            packages: 2,
        };
        assert_eq!(topology.core_shift(), 1);
        assert_eq!(topology.die_shift(), 3);
        assert_eq!(topology.package_shift(), 4);
        let ids: Vec<_> = (0..24).map(|n| topology.apic_id(VcpuId(n))).collect();
        assert_eq!(&ids[..8], [0, 1, 2, 3, 4, 5, 8, 9]);
        assert_eq!(ids[23], 0b1_1101);
    }

    #[test]
    fn clusters_have_a_field_of_their_own() {
        let topology = parse_topology("1:3:2:1:2").unwrap();
        assert_eq!((topology.cores, topology.cluster), (6, 3));
        assert_eq!((topology.cluster_shift(), topology.die_shift()), (2, 3));
        let ids: Vec<_> = (0..12).map(|n| topology.apic_id(VcpuId(n))).collect();
        assert_eq!(ids, [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]);
        assert_eq!(topology.to_string(), "1:3:2:1:2");
        let flat = parse_topology("1:1:4:1:1").unwrap();
        assert_eq!(flat, Topology::flat(4), "a cluster of one is none");
    }

    #[test]
    fn good_values() {
        let four = CpusConfig::parse("boot=4").unwrap();
        assert_eq!(four.topology, Topology::flat(4));
        let smt = CpusConfig::parse("boot=8,max=8,topology=2:2:1:2").unwrap();
        assert_eq!(smt.topology.cpus(), 8);
        assert_eq!(CpusConfig::parse("boot=254").unwrap().max, 254);
        let more = CpusConfig::parse("boot=1,max=4,topology=1:2:2:1").unwrap();
        assert_eq!((more.boot, more.possible().count()), (1, 4));
        for (text, nested) in [
            ("boot=1", false),
            ("boot=1,nested=off", false),
            ("boot=1,nested=on", true),
        ] {
            assert_eq!(CpusConfig::parse(text).unwrap().nested, nested, "{text}");
        }
    }

    #[test]
    fn bad_values_name_the_flag_and_what_would_do() {
        for (text, part) in [
            ("boot=0", "1 to 254"),
            ("boot=255", "1 to 254"),
            ("boot=four", "1 to 254"),
            ("4", "not key=value"),
            ("boot=4,sockets=1", "unknown key 'sockets'"),
            ("boot=4,boot=4", "twice"),
            ("max=4", "'boot' is missing"),
            ("boot=4,max=2", "max from 4 to 254"),
            ("boot=2,max=4,topology=1:2:1:1", "product is 4"),
            ("boot=4,topology=2:4:1:1", "product is 4"),
            ("boot=4,topology=2:2:1", "threads:cores:dies:packages"),
            ("boot=4,topology=2:1:2:1:1:1", "threads:cores:dies:packages"),
            (
                "boot=4,topology=2:2:2:1:1",
                "topology=2:2:2:1:1 describes 8",
            ),
            ("boot=4,topology=254:254:254:254:254", "product is 4"),
            ("boot=4,topology=0:4:1:1", "threads:cores:dies:packages"),
            ("boot=240,topology=1:3:5:16", "below 255"),
            ("boot=2,affinity=[2@[0]]", "not possible for 'affinity'"),
            ("boot=2,affinity=[0@[1,2]", "0@[2,3]"),
            ("boot=2,core-types=[core=[0]]", "each vCPU exactly once"),
            ("boot=2,nested=yes", "on or off"),
        ] {
            let message = CpusConfig::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--cpus"), "{message}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
