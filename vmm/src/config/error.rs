//! The errors of flags.

use thiserror::Error;

use super::{MAX_CMDLINE, Topology};

/// A flag with an impossible value. Each text names the flag, the value and, after
/// "accepted:", "expected:" or "use", input that works.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The flag has no such key.
    #[error("{flag}: unknown key '{key}'; expected: {accepted}")]
    UnknownKey {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        key: String,
        /// The keys that exist.
        accepted: &'static str,
    },
    /// A part of the value is no `key=value`.
    #[error("{flag}: '{item}' is not key=value; expected: {accepted}")]
    NotKeyValue {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        item: String,
        /// What the flag takes.
        accepted: &'static str,
    },
    /// A key was given twice.
    #[error("{flag}: '{key}' is given twice; use each key once")]
    Duplicate {
        /// The flag.
        flag: &'static str,
        /// The key.
        key: String,
    },
    /// A key that must be there is not.
    #[error("{flag}: '{key}' is missing; expected: {accepted}")]
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
    #[error("{flag}: '{value}' is not possible for '{key}'; expected: {accepted}")]
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
    /// Two keys, or a key and a word, that do not go together.
    #[error("{flag}: '{key}' excludes another key of this value; expected: {accepted}")]
    KeyExcludes {
        /// The flag.
        flag: &'static str,
        /// One of the keys.
        key: &'static str,
        /// What the flag takes.
        accepted: &'static str,
    },
    /// Two devices with one name.
    #[error("{flag}: {key} '{value}' is given twice; use a different {key} for each {flag}")]
    SameName {
        /// The flag.
        flag: &'static str,
        /// The key.
        key: &'static str,
        /// The name.
        value: String,
    },
    /// A flag that is on or off is neither.
    #[error("{flag}: '{value}' is not possible; expected: on or off")]
    BadSwitch {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        value: String,
    },
    /// Two flags want the terminal.
    #[error(
        "--console: tty is given, and --serial takes the terminal too; use --serial null or --serial file=PATH with it"
    )]
    TwoTerminals,
    /// The PMU model cannot have this many.
    #[error("--pmu: {0}")]
    Model(vpmu::guest::ModelConfigError),
    /// Fewer possible vCPUs than boot with.
    #[error(
        "--cpus: max={max} is less than boot={boot}; expected: max from {boot} to 254, or no max"
    )]
    MaxBelowBoot {
        /// vCPUs at boot.
        boot: u16,
        /// Possible vCPUs.
        max: u16,
    },
    /// The topology describes another number of CPUs.
    #[error(
        "--cpus: topology={topology} describes {} CPUs but max={max}; expected: threads:cores[:clusters]:dies:packages whose product is {max}", topology.cpus()
    )]
    TopologyProduct {
        /// What the user wrote.
        topology: Topology,
        /// Possible vCPUs.
        max: u16,
    },
    /// The topology needs APIC ids that this VMM does not give.
    #[error(
        "--cpus: topology={topology} needs APIC ids up to {apic_id}; expected: a topology whose ids stay below 255 (each level is rounded up to a power of two)"
    )]
    ApicIds {
        /// What the user wrote.
        topology: Topology,
        /// The largest id.
        apic_id: u32,
    },
    /// A hybrid guest whose vCPUs have no types.
    #[error(
        "--pmu type=hybrid: --cpus core-types= is missing; expected: core-types=[core=[VCPUS],atom=[VCPUS]] with each vCPU exactly once"
    )]
    HybridWithoutTypes,
    /// A model or numbers for a hybrid guest.
    #[error(
        "--pmu type=hybrid: it excludes model=, gp=, fixed= and width=, because Linux expects the counters of one hybrid CPU; accepted: policy=, filter= and rdpmc="
    )]
    HybridHasItsNumbers,
    /// Types of vCPUs in a guest that is not hybrid.
    #[error("--cpus: core-types= is given without --pmu type=hybrid; use both or neither")]
    TypesWithoutHybrid,
    /// Uncore PMUs for a guest without a PMU.
    #[error(
        "--uncore: a guest with --pmu off or rdpmc=off has no uncore PMU; use --pmu type=… with it, or no --uncore"
    )]
    UncoreWithoutPmu,
    /// A guest of the guest would write the guest's counters.
    #[error(
        "--cpus: nested=on is not possible with a PMU: what a guest of the guest does would be counted as the guest's; use --pmu off with it, or nested=off"
    )]
    NestedWithPmu,
    /// The command line is too long for the kernel.
    #[error("--cmdline: {len} bytes are too long; expected: at most {MAX_CMDLINE} bytes")]
    LongCmdline {
        /// Its length.
        len: usize,
    },
    /// The command line has a NUL.
    #[error("--cmdline: it contains a NUL byte; expected: text without NUL")]
    NulInCmdline,
}
