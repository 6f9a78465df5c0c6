//! `--pmu`.

use std::path::PathBuf;

use vpmu::Policy;
use vpmu::guest::{ModelKind, Shape};

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--pmu",
    keys: &[
        "type", "model", "gp", "fixed", "width", "policy", "filter", "rdpmc",
    ],
    accepted: "off, or [type=auto|core|atom|hybrid|software|<sysfs name>|<type number>][,model=<name>][,gp=N][,fixed=N][,width=N][,policy=flexible|pinned][,filter=architectural|standard|all|@FILE][,rdpmc=rewrite|off]",
};
const TYPE: &str = "auto, core, atom, hybrid, software, the name of a PMU in /sys/bus/event_source/devices, or its type number";

/// Which host PMU backs the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PmuKind {
    /// The best that the host has; the software backing where it has none.
    Auto,
    /// The host PMU `cpu_core`.
    Core,
    /// The host PMU `cpu_atom`.
    Atom,
    /// Both, for a guest that is hybrid itself.
    Hybrid,
    /// Clocks only: cycles and reference cycles from the vCPU's guest time.
    Software,
    /// A host PMU by its name in `/sys/bus/event_source/devices`.
    Named(String),
    /// A host PMU by its `perf_event_attr.type`.
    Number(u32),
}

/// How the guest's RDPMC is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RdpmcPolicy {
    /// The guest kernel's RDPMC instructions are rewritten to RDMSR.
    #[default]
    Rewrite,
    /// They are left as they are, and the guest has no PMU: nothing else would serve
    /// them (rule G-501).
    Off,
}

/// Which events the guest may count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FilterArg {
    /// Those that mean the same on every CPU.
    Architectural,
    /// Those, and the others of the generic tables of the guest's driver.
    #[default]
    Standard,
    /// Any code that the host counts.
    All,
    /// As the lists in this file say.
    File(PathBuf),
}

/// A PMU, as asked for. A `None` leaves the choice to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmuConfig {
    /// The backing.
    pub kind: PmuKind,
    /// The guest's PMU.
    pub model: Option<ModelKind>,
    /// General-purpose counters; the model says how many it can have.
    pub gp: Option<u8>,
    /// Fixed counters, likewise.
    pub fixed: Option<u8>,
    /// Counter width in bits, likewise.
    pub width: Option<u8>,
    /// How the guest's counters share the host's.
    pub policy: Policy,
    /// Which events the guest may count.
    pub filter: FilterArg,
    /// RDPMC.
    pub rdpmc: RdpmcPolicy,
}

/// The value of `--pmu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PmuArg {
    /// The guest has no PMU, and its CPU looks like the host's.
    Off,
    /// The guest has one.
    On(PmuConfig),
}

impl PmuArg {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let options = Options::parse(FLAG, text)?;
        let kind = options.get("type").unwrap_or("auto");
        let kind = parse_kind(kind).ok_or_else(|| options.bad("type", kind, TYPE))?;
        let rdpmc = match options.get("rdpmc") {
            None | Some("rewrite") => RdpmcPolicy::Rewrite,
            Some("off") => RdpmcPolicy::Off,
            Some(other) => return Err(options.bad("rdpmc", other, "rewrite or off")),
        };
        let policy = match options.get("policy") {
            None | Some("flexible") => Policy::Flexible,
            Some("pinned") => Policy::Pinned,
            Some(other) => return Err(options.bad("policy", other, "flexible or pinned")),
        };
        let small = |key, range, accepted| {
            options
                .number(key, range, accepted)
                .map(|number| number.and_then(|number| u8::try_from(number).ok()))
        };
        let pmu = PmuConfig {
            kind,
            model: parse_model(&options)?,
            // What some model can have.
            gp: small("gp", 2..=8, "2 to 8")?,
            fixed: small("fixed", 0..=4, "0 to 4, as the model allows")?,
            width: small("width", 32..=48, "32 to 48")?,
            policy,
            filter: parse_filter(&options)?,
            rdpmc,
        };
        if let Some(model) = pmu.model {
            // Without a name the host decides on the model, and the check waits for it.
            model.check(pmu.shape(model)).map_err(ConfigError::Model)?;
        }
        Ok(Self::On(pmu))
    }
}

impl PmuConfig {
    /// The numbers that were asked for; the others as `model` has them.
    #[must_use]
    pub fn shape(&self, model: ModelKind) -> Shape {
        let own = model.shape();
        Shape {
            gp: self.gp.unwrap_or(own.gp),
            fixed: self.fixed.unwrap_or(own.fixed),
            width: self.width.unwrap_or(own.width),
        }
    }
}

fn parse_filter(options: &Options<'_>) -> Result<FilterArg, ConfigError> {
    match options.get("filter") {
        None | Some("standard") => Ok(FilterArg::Standard),
        Some("architectural") => Ok(FilterArg::Architectural),
        Some("all") => Ok(FilterArg::All),
        Some(other) => match other.strip_prefix('@') {
            Some(path) if !path.is_empty() => Ok(FilterArg::File(path.into())),
            _ => Err(options.bad(
                "filter",
                other,
                "architectural, standard, all, or @ and the path of a file",
            )),
        },
    }
}

fn parse_model(options: &Options<'_>) -> Result<Option<ModelKind>, ConfigError> {
    let Some(name) = options.get("model") else {
        return Ok(None);
    };
    match ModelKind::from_name(name) {
        Some(model) => Ok(Some(model)),
        None => Err(options.bad("model", name, ModelKind::NAMES)),
    }
}

fn parse_kind(text: &str) -> Option<PmuKind> {
    match text {
        "" => None,
        "auto" => Some(PmuKind::Auto),
        "core" => Some(PmuKind::Core),
        "atom" => Some(PmuKind::Atom),
        "hybrid" => Some(PmuKind::Hybrid),
        "software" => Some(PmuKind::Software),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().map(PmuKind::Number)
        }
        // A sysfs name is one path component.
        _ if text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) =>
        {
            Some(PmuKind::Named(text.to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values() {
        assert_eq!(PmuArg::parse("off"), Ok(PmuArg::Off));
        let PmuArg::On(pmu) = PmuArg::parse("type=cpu_atom,gp=6,fixed=3,width=40").unwrap() else {
            panic!("it is on");
        };
        assert_eq!(pmu.kind, PmuKind::Named("cpu_atom".into()));
        assert_eq!((pmu.gp, pmu.fixed, pmu.width), (Some(6), Some(3), Some(40)));
        let PmuArg::On(pmu) = PmuArg::parse("type=4,rdpmc=off").unwrap() else {
            panic!("it is on");
        };
        assert_eq!(pmu.kind, PmuKind::Number(4));
        assert_eq!(pmu.rdpmc, RdpmcPolicy::Off);
        assert_eq!(pmu.policy, Policy::Flexible);
        let PmuArg::On(pmu) = PmuArg::parse("type=auto,policy=pinned").unwrap() else {
            panic!("it is on");
        };
        assert_eq!(pmu.policy, Policy::Pinned);
        for (text, filter) in [
            ("type=auto", FilterArg::Standard),
            ("type=auto,filter=standard", FilterArg::Standard),
            ("type=auto,filter=architectural", FilterArg::Architectural),
            ("type=auto,filter=all", FilterArg::All),
            (
                "type=auto,filter=@/etc/f.json",
                FilterArg::File("/etc/f.json".into()),
            ),
        ] {
            let PmuArg::On(pmu) = PmuArg::parse(text).unwrap() else {
                panic!("it is on");
            };
            assert_eq!(pmu.filter, filter);
        }
        for (text, kind) in [
            ("type=core", PmuKind::Core),
            ("type=atom", PmuKind::Atom),
            ("type=hybrid", PmuKind::Hybrid),
        ] {
            let PmuArg::On(pmu) = PmuArg::parse(text).unwrap() else {
                panic!("it is on");
            };
            assert_eq!(pmu.kind, kind);
        }
    }

    #[test]
    fn the_type_is_auto_by_default() {
        for text in ["model=intel-v5", "gp=4", "policy=pinned"] {
            let PmuArg::On(pmu) = PmuArg::parse(text).unwrap() else {
                panic!("it is on");
            };
            assert_eq!(pmu.kind, PmuKind::Auto, "{text}");
        }
    }

    #[test]
    fn a_model_brings_its_own_numbers() {
        let PmuArg::On(pmu) = PmuArg::parse("type=auto,model=intel-v5,gp=6").unwrap() else {
            panic!("it is on");
        };
        let model = pmu.model.unwrap();
        assert_eq!(model.name(), "intel-v5");
        let Shape { gp, fixed, width } = pmu.shape(model);
        assert_eq!((gp, fixed, width), (6, 3, 48));
    }

    #[test]
    fn bad_values() {
        for (text, part) in [
            ("on", "not key=value"),
            ("type=", "type number"),
            ("type=../x", "type number"),
            ("type=99999999999", "type number"),
            ("type=auto,gp=1", "2 to 8"),
            ("type=auto,gp=9", "2 to 8"),
            ("type=auto,fixed=5", "0 to 4"),
            ("type=auto,model=intel-v6", "intel-v5, amd-k7"),
            ("type=auto,model=", "intel-v5, amd-k7"),
            (
                "type=auto,model=intel-v2,fixed=0",
                "fixed=0 is not possible with model=intel-v2; accepted: 1 to 3",
            ),
            (
                "type=auto,model=amd-v2,gp=3",
                "gp=3 is not possible with model=amd-v2; accepted: 4 to 6",
            ),
            (
                "type=auto,model=amd-core,gp=4",
                "gp=4 is not possible with model=amd-core; accepted: 6",
            ),
            ("type=auto,model=intel-v1,fixed=3", "accepted: 0"),
            ("type=auto,width=49", "32 to 48"),
            ("type=auto,width=x", "32 to 48"),
            ("type=auto,rdpmc=on", "rewrite or off"),
            ("type=auto,policy=fair", "flexible or pinned"),
            (
                "type=auto,filter=some",
                "architectural, standard, all, or @",
            ),
            ("type=auto,filter=@", "architectural, standard, all, or @"),
            ("type=auto,events=3", "unknown key 'events'"),
        ] {
            let message = PmuArg::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--pmu"), "{message}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
