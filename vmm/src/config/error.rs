//! What can be wrong with a flag.

use thiserror::Error;

use super::{MAX_CMDLINE, Topology};

/// A flag whose value is not possible. Each text names the flag, the value and
/// what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The flag has no such key.
    #[error("{flag}: unknown key '{key}'; accepted: {accepted}")]
    UnknownKey {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        key: String,
        /// The keys that exist.
        accepted: &'static str,
    },
    /// A part of the value is no `key=value`.
    #[error("{flag}: '{item}' is not key=value; accepted: {accepted}")]
    NotKeyValue {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        item: String,
        /// What the flag takes.
        accepted: &'static str,
    },
    /// A key was given twice.
    #[error("{flag}: '{key}' is given twice; accepted: each key once")]
    Duplicate {
        /// The flag.
        flag: &'static str,
        /// The key.
        key: String,
    },
    /// A key that must be there is not.
    #[error("{flag}: '{key}' is missing; accepted: {accepted}")]
    MissingKey {
        /// The flag.
        flag: &'static str,
        /// The key.
        key: &'static str,
        /// What the flag takes.
        accepted: &'static str,
    },
    /// A word is no event.
    #[error("{flag}: '{event}' is no event; accepted: {accepted}")]
    BadEvent {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        event: String,
        /// What would do.
        accepted: String,
    },
    /// A value cannot be read or is out of range.
    #[error("{flag}: '{value}' is not possible for '{key}'; accepted: {accepted}")]
    BadValue {
        /// The flag.
        flag: &'static str,
        /// The key.
        key: &'static str,
        /// What the user wrote.
        value: String,
        /// What would do.
        accepted: &'static str,
    },
    /// The PMU model cannot have this many.
    #[error("--pmu: {0}")]
    Model(vpmu::guest::ConfigError),
    /// Fewer possible vCPUs than boot with.
    #[error(
        "--cpus: max={max} with boot={boot} is not possible; accepted: max from {boot} to 254, or no max"
    )]
    MaxBelowBoot {
        /// vCPUs at boot.
        boot: u16,
        /// Possible vCPUs.
        max: u16,
    },
    /// The topology describes another number of CPUs.
    #[error(
        "--cpus: topology={topology} describes {} CPUs but max={max}; accepted: threads:cores[:clusters]:dies:packages whose product is {max}", topology.cpus()
    )]
    TopologyProduct {
        /// What the user wrote.
        topology: Topology,
        /// Possible vCPUs.
        max: u16,
    },
    /// The topology needs APIC ids that this VMM does not give.
    #[error(
        "--cpus: topology={topology} needs APIC ids up to {apic_id}; accepted: a topology whose ids stay below 255 (each level is rounded up to a power of two)"
    )]
    ApicIds {
        /// What the user wrote.
        topology: Topology,
        /// The largest id.
        apic_id: u32,
    },
    /// A hybrid guest whose vCPUs have no types.
    #[error(
        "--pmu type=hybrid: --cpus core-types= is missing; accepted: core-types=[core=[VCPUS],atom=[VCPUS]] with each vCPU exactly once"
    )]
    HybridWithoutTypes,
    /// A model or numbers for a hybrid guest.
    #[error(
        "--pmu type=hybrid: model=, gp=, fixed= and width= are not possible with it, as Linux expects the counters of one hybrid CPU; accepted: policy=, filter= and rdpmc="
    )]
    HybridHasItsNumbers,
    /// Types of vCPUs in a guest that is not hybrid.
    #[error("--cpus: core-types= goes with --pmu type=hybrid; accepted: both, or neither")]
    TypesWithoutHybrid,
    /// Uncore PMUs for a guest without a PMU.
    #[error(
        "--uncore: it is not possible with --pmu off or rdpmc=off; accepted: --pmu type=… with it, or no --uncore"
    )]
    UncoreWithoutPmu,
    /// The command line is too long for the kernel.
    #[error("--cmdline: {len} bytes are too long; accepted: up to {MAX_CMDLINE} bytes")]
    LongCmdline {
        /// Its length.
        len: usize,
    },
    /// The command line has a NUL.
    #[error("--cmdline: it holds a NUL byte; accepted: text without NUL")]
    NulInCmdline,
}
