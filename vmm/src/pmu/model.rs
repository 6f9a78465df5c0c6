//! Chooses the model of the guest's PMU.

use std::fmt;

use vpmu::CodesId;
use vpmu::guest::{
    AmdVersion, ArchPerfmonConfig, ArchVersion, CoreType, ModelConfig, ModelConfigError, ModelKind,
    Shape,
};
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::standard::{StandardEvent, StandardSet};

use super::budget::{Budget, BudgetError};
use crate::config::{FilterArg, PmuConfig};

/// The vendor of the CPU that this runs on; `None` if it is neither.
pub(super) fn host_vendor() -> Option<Vendor> {
    let leaf = core::arch::x86_64::__cpuid(0);
    Vendor::of_leaf_0([leaf.ebx, leaf.edx, leaf.ecx])
}

/// Whose CPU a guest has, or is to have by default: the codes of its filter are
/// that vendor's.
pub(super) fn vendor_first_tried(asked: &PmuConfig, host: Option<Vendor>) -> Vendor {
    asked
        .model
        .map_or(host.unwrap_or(Vendor::Intel), ModelKind::vendor)
}

/// What is counted for a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offered {
    /// Architectural events.
    pub(super) events: ArchEventSet,
    /// Standard events.
    pub(super) standard: StandardSet,
}

/// Whether the event codes of an AMD guest mean the same on this AMD CPU.
pub(super) fn has_codes_of_17h() -> bool {
    is_family_17h(core::arch::x86_64::__cpuid(1).eax)
}

const fn is_family_17h(signature: u32) -> bool {
    (signature >> 8 & 0xf) + (signature >> 20 & 0xff) >= 0x17
}

/// The fixed counters before the one that counts `ref-cycles`, which has no bit
/// in leaf 0AH: a guest without the counter knows that it has no such event.
const WITHOUT_REF_TSC: u8 = 2;

/// The numbers that were asked for; the others as the model has them, as far as
/// there is something to count (rule G-003).
fn offered(asked: &PmuConfig, kind: ModelKind, events: ArchEventSet) -> Shape {
    let mut shape = asked.shape(kind);
    if asked.fixed.is_none() && !events.contains(ArchEvent::RefTsc) {
        shape.fixed = shape.fixed.min(WITHOUT_REF_TSC);
    }
    shape
}

/// Whose event codes the core PMU called `name` counts, on a host of `vendor`.
pub(super) fn host_codes(vendor: Vendor, name: &str) -> CodesId {
    let core_type = match name {
        "cpu_core" => Some(CoreType::Core),
        "cpu_atom" => Some(CoreType::Atom),
        _ => None,
    };
    CodesId::new(vendor, core::arch::x86_64::__cpuid(1).eax, core_type)
}

/// The reason why no model can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The model has no such numbers.
    #[error(transparent)]
    Model(#[from] ModelConfigError),
    /// The host has not so many counters.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// A model, and why it is this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) kind: ModelKind,
    pub(super) config: ModelConfig,
    offered: Offered,
    /// What would be counted for an AMD guest.
    passed_over: Offered,
    reason: ModelReason,
    filter: Codes,
}

/// What the filter makes of events that have no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codes {
    /// Architectural events alone are admitted.
    Architectural,
    /// No code of an event without a name is admitted.
    Named,
    /// Some or all are.
    Admitted,
}

impl From<&FilterArg> for Codes {
    fn from(filter: &FilterArg) -> Self {
        match filter {
            FilterArg::Architectural => Self::Architectural,
            FilterArg::Standard => Self::Named,
            FilterArg::All | FilterArg::File(_) => Self::Admitted,
        }
    }
}

/// The reason for the choice of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelReason {
    Asked,
    /// The model is of the vendor of the host's CPU.
    HostVendor,
    /// The host does not count all events that the driver of an AMD guest expects.
    NotAllOfAmd,
    /// The host is neither vendor's.
    OtherVendor,
    /// The pair of a hybrid guest: more counters than the version has by itself.
    Hybrid,
}

impl Choice {
    /// The model that was asked for, or the one for this host: the host
    /// vendor's own, unless that is AMD's and one of the events is missing that
    /// an AMD guest takes for granted (guest-contract §0): those of `perf stat`, `-d`
    /// and `-d -d`. `counted` says which are counted for a guest of a vendor.
    ///
    /// # Errors
    /// [`ChoiceError`] if the model cannot have the numbers that were asked for.
    pub(super) fn new(
        asked: &PmuConfig,
        counted: impl Fn(Vendor) -> Offered,
        host: Option<Vendor>,
        found: Option<&Budget>,
    ) -> Result<Self, ChoiceError> {
        let passed_over = counted(Vendor::Amd);
        let is_whole = missing(passed_over).is_empty();
        let (kind, reason) = match (asked.model, host) {
            (Some(kind), _) => (kind, ModelReason::Asked),
            (None, Some(Vendor::Amd)) if is_whole => {
                (ModelKind::Amd(AmdVersion::V2), ModelReason::HostVendor)
            }
            (None, Some(Vendor::Amd)) => (ModelKind::INTEL_GENERIC, ModelReason::NotAllOfAmd),
            (None, Some(Vendor::Intel)) => (ModelKind::INTEL_GENERIC, ModelReason::HostVendor),
            (None, None) => (ModelKind::INTEL_GENERIC, ModelReason::OtherVendor),
        };
        let counted = counted(kind.vendor());
        let offered = offered(asked, kind, counted.events);
        let shape = match found {
            Some(budget) => budget.shape(asked, kind, offered)?,
            None => offered,
        };
        let config = ModelConfig::new(kind, shape, counted.events)?;
        Ok(Self {
            kind,
            config,
            offered: counted,
            passed_over,
            reason,
            filter: Codes::from(&asked.filter),
        })
    }

    /// The pair of a hybrid guest (rules G-201 to G-203). Its numbers are those
    /// that Linux makes of the model number, whatever the host has.
    pub(super) fn hybrid(events: ArchEventSet, filter: &FilterArg) -> Self {
        Self {
            kind: ModelKind::Intel(ArchVersion::V5),
            // What CPUID shows is the same on both.
            config: ModelConfig::Intel(ArchPerfmonConfig::hybrid(CoreType::Core, events)),
            offered: Offered {
                events,
                standard: StandardSet::EMPTY,
            },
            passed_over: Offered::default(),
            reason: ModelReason::Hybrid,
            filter: Codes::from(filter),
        }
    }

    /// The registers of one vCPU, whose type is `core_type` in a hybrid guest.
    pub(super) const fn config_of(&self, core_type: Option<CoreType>) -> ModelConfig {
        match (core_type, self.config) {
            (Some(core_type), ModelConfig::Intel(config)) => {
                ModelConfig::Intel(ArchPerfmonConfig::hybrid(core_type, config.events()))
            }
            (_, config) => config,
        }
    }

    /// What the guest takes for granted and will not get: named, so that no 0
    /// goes unexplained. AMD's PMU cannot tell the guest at all, Intel's not of
    /// what a fixed counter alone counts.
    pub(super) fn warning(&self) -> Option<String> {
        let ModelConfig::Intel(config) = self.config else {
            let missing = missing(self.offered);
            return (!missing.is_empty()).then(|| {
                let way_out = if self.filter == Codes::Architectural {
                    "filter=standard counts what the host counts, and "
                } else {
                    ""
                };
                format!(
                    "model={}: an AMD CPU cannot say that an event is missing, and nothing counts {} \
                     here: the guest reads 0 for them; {way_out}model=intel-v2 would show <not supported>",
                    self.kind,
                    missing.join(", ")
                )
            });
        };
        let fixed = config.fixed().len();
        let no_ref_cycles =
            !self.offered.events.contains(ArchEvent::RefTsc) && fixed > WITHOUT_REF_TSC;
        let text = |who: &str, way_out: &str| {
            format!(
                "{who} has a fixed counter for ref-cycles, and nothing counts them here: the guest reads 0 \
                 for them{way_out}"
            )
        };
        if self.reason != ModelReason::Hybrid {
            let who = format!("model={} with fixed={fixed}", self.kind);
            let way_out = format!("; fixed={WITHOUT_REF_TSC} would show <not supported>");
            return no_ref_cycles.then(|| text(&who, &way_out));
        }
        let ref_cycles = no_ref_cycles.then(|| text("a hybrid guest", ""));
        let caches = (self.filter != Codes::Admitted).then(|| CACHES_OF_A_HYBRID.to_owned());
        let texts: Vec<String> = ref_cycles.into_iter().chain(caches).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// The driver takes a hybrid guest's CPU by its model number, and has tables of codes for it
/// beside the architectural events.
const CACHES_OF_A_HYBRID: &str = "a hybrid guest counts cache events (L1-dcache-loads, dTLB-load-misses and the like) by the \
     codes of its CPU, which the filter does not admit: the guest reads 0 for them; filter=all \
     counts them on a host with the same CPU";

impl Choice {
    /// What an AMD guest reads as 0 whatever the host counts, if there is any of it.
    pub(super) fn unnamed(&self) -> Option<&'static str> {
        let is_amd = self.kind.vendor() == Vendor::Amd;
        (is_amd && self.filter != Codes::Admitted).then_some(
            "raw event codes that no name of the guest's driver stands for read 0 in the guest; \
             filter=all counts them on a host of its vendor",
        )
    }

    /// Whether the host's vendor's own model was passed over.
    pub(super) fn is_second_best(&self) -> bool {
        self.reason == ModelReason::NotAllOfAmd
    }
}

/// The events of `perf stat`, `-d` and `-d -d` in an AMD guest, and those of the driver's
/// architectural names, that are not counted.
fn missing(counted: Offered) -> Vec<&'static str> {
    let architectural = ArchEventSet::AMD_GENERIC.without(counted.events);
    let standard = StandardSet::AMD_DETAILED.without(counted.standard);
    let names = architectural.map(ArchEvent::name);
    names.chain(standard.map(StandardEvent::name)).collect()
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            ModelReason::Asked => "asked for",
            ModelReason::HostVendor => "the host's vendor's",
            ModelReason::NotAllOfAmd => {
                let names = missing(self.passed_over).join(", ");
                return write!(
                    f,
                    "model {} (an AMD guest takes {names} for granted, and nothing counts them here)",
                    self.kind
                );
            }
            ModelReason::Hybrid => "a hybrid guest: 8 + 4 counters on core vCPUs, 6 + 3 on atom",
            ModelReason::OtherVendor => "the host is neither Intel's nor AMD's",
        };
        write!(f, "model {} ({why})", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PmuArg;
    use vpmu::host::EventCode;
    use vpmu::x86::cpuid::PmuCpuid;
    use vpmu::x86::event::RawEvent;
    use vpmu::{EventFilter, FilterLists};

    const ALL: Offered = Offered {
        events: ArchEventSet::ALL,
        standard: StandardSet::ALL,
    };

    fn of(events: ArchEventSet) -> Offered {
        Offered { events, ..ALL }
    }

    fn asked(text: &str) -> PmuConfig {
        match PmuArg::parse(text) {
            Ok(PmuArg::On(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    /// Guest-contract §0: who gets which by default.
    #[test]
    fn the_default_is_the_hosts_vendors_where_it_can_be_honest() {
        let clock = Offered {
            events: [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect(),
            ..Offered::default()
        };
        let least = Offered {
            events: ArchEventSet::AMD_GENERIC,
            standard: StandardSet::AMD_DETAILED,
        };
        let no_caches = Offered {
            standard: StandardSet::EMPTY,
            ..ALL
        };
        let no_walks = Offered {
            standard: StandardSet::ALL
                .iter()
                .filter(|event| *event != StandardEvent::ItlbLoadMisses)
                .collect(),
            ..ALL
        };
        let (amd, intel) = (Some(Vendor::Amd), Some(Vendor::Intel));
        for (counted, host, model, why) in [
            (ALL, intel, "intel-v2", "vendor's"),
            (ALL, amd, "amd-v2", "vendor's"),
            (least, amd, "amd-v2", "vendor's"),
            (clock, amd, "intel-v2", "instructions, cache-references"),
            (
                no_caches,
                amd,
                "intel-v2",
                "guest takes stalled-cycles-frontend, stalled-cycles-backend, L1-dcache-loads",
            ),
            (
                no_walks,
                amd,
                "intel-v2",
                "guest takes iTLB-load-misses for granted",
            ),
            (clock, intel, "intel-v2", "vendor's"),
            (no_caches, intel, "intel-v2", "vendor's"),
            (ALL, None, "intel-v2", "neither"),
        ] {
            let choice = Choice::new(&asked("type=auto"), |_| counted, host, None).unwrap();
            assert_eq!(choice.kind.name(), model, "{host:?}");
            assert!(choice.to_string().contains(why), "{choice}");
            assert_eq!(choice.warning(), None, "a default guest reads no 0");
            assert_eq!(choice.unnamed().is_some(), model == "amd-v2");
            let passed_over = host == amd && model != "amd-v2";
            assert_eq!(choice.is_second_best(), passed_over, "{host:?}");
        }
    }

    /// G-003: an open of `ref-cycles` fails in a guest without fixed counter 2.
    #[test]
    fn without_reference_cycles_the_third_fixed_counter_is_not_offered() {
        let without: ArchEventSet = ArchEvent::ALL[..7].iter().copied().collect();
        let intel = Some(Vendor::Intel);
        let leaf = |text: &str, events| {
            let choice = Choice::new(&asked(text), |_| of(events), intel, None).unwrap();
            let PmuCpuid::Intel(leaves) = choice.config.cpuid() else {
                panic!("{text} is Intel's");
            };
            let [.., ecx, edx] = leaves.leaf_0a.words();
            ((edx & 0x1f, ecx), choice.warning())
        };
        for (text, all, reduced) in [
            ("type=auto", (3, 0), (2, 0)),
            ("type=auto,model=intel-v1", (0, 0), (0, 0)),
            ("type=auto,model=intel-v3", (3, 0), (2, 0)),
            ("type=auto,model=intel-v4", (3, 0), (2, 0)),
            ("type=auto,model=intel-v5", (3, 7), (2, 3)),
            ("type=auto,fixed=1", (1, 0), (1, 0)),
        ] {
            assert_eq!(leaf(text, ArchEventSet::ALL), (all, None), "{text}");
            assert_eq!(leaf(text, without), (reduced, None), "{text}");
        }
        for (text, asked) in [
            ("type=auto,fixed=3", (3, 0)),
            ("type=auto,model=intel-v5,fixed=4", (4, 0xf)),
        ] {
            assert_eq!(leaf(text, ArchEventSet::ALL), (asked, None), "{text}");
            let (shown, warning) = leaf(text, without);
            assert_eq!(shown, asked, "{text}: what is named is given");
            let warning = warning.unwrap();
            for word in ["ref-cycles", "reads 0", "fixed=2"] {
                assert!(warning.contains(word), "{warning}");
            }
        }
        let hybrid = |events, filter: FilterArg| Choice::hybrid(events, &filter).warning();
        assert_eq!(hybrid(ArchEventSet::ALL, FilterArg::All), None);
        let warning = hybrid(without, FilterArg::All).unwrap();
        assert!(warning.contains("ref-cycles") && !warning.contains("fixed=2"));
        for filter in [FilterArg::Standard, FilterArg::Architectural] {
            let warning = hybrid(ArchEventSet::ALL, filter).unwrap();
            for word in ["L1-dcache-loads", "reads 0", "filter=all"] {
                assert!(warning.contains(word), "{warning}");
            }
            assert!(!warning.contains("ref-cycles"), "{warning}");
        }
    }

    /// A filter's codes are of the vendor whose guest it would be: what they take
    /// from an AMD guest is not given to an Intel one in its place.
    #[test]
    fn a_code_of_a_filter_decides_like_the_name_of_its_event() {
        let amd = Some(Vendor::Amd);
        let chosen = |text, code| {
            let deny = [EventCode::Raw(RawEvent::of_event_sel(code))];
            let lists = EventFilter::Lists(FilterLists::new([], deny));
            let asked = asked(text);
            let filter = lists.for_vendor(vendor_first_tried(&asked, amd));
            let events = |vendor| {
                let filter = filter.clone().for_vendor(vendor);
                of(filter.admitted(ArchEventSet::ALL))
            };
            let choice = Choice::new(&asked, events, amd, None).unwrap();
            let counted = ArchEvent::ALL.map(|event| choice.offered.events.contains(event));
            (choice.kind.name(), counted.map(u8::from))
        };
        assert_eq!(chosen("type=auto", 0x3c), ("amd-v2", [1; 8]));
        let without_cycles = [0, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(chosen("type=auto", 0x76), ("intel-v2", without_cycles));
        let asked = "type=auto,model=intel-v4";
        assert_eq!(chosen(asked, 0x3c), ("intel-v4", without_cycles));
        assert_eq!(chosen(asked, 0x76), ("intel-v4", [1; 8]));
    }

    #[test]
    fn what_was_asked_for_is_given_on_any_host() {
        let clock = Offered {
            events: [ArchEvent::Cycles].into_iter().collect(),
            ..Offered::default()
        };
        for host in [Some(Vendor::Amd), Some(Vendor::Intel), None] {
            let choice =
                Choice::new(&asked("type=software,model=amd-k7"), |_| clock, host, None).unwrap();
            assert_eq!(choice.kind.name(), "amd-k7");
            let warning = choice.warning().unwrap();
            for word in ["amd-k7", "instructions", "branch-misses", "intel-v2"] {
                assert!(warning.contains(word), "{warning}");
            }
            assert!(!warning.contains("ref-cycles"), "not generic on AMD");
        }
    }

    /// What an operator forces on a guest is named at the start, event by event.
    #[test]
    fn events_that_an_amd_guest_is_made_to_read_as_0_are_named() {
        let warning = |text, counted| {
            let host = Some(Vendor::Amd);
            let choice = Choice::new(&asked(text), |_| counted, host, None).unwrap();
            assert_eq!(choice.kind.name(), "amd-v2");
            choice.warning()
        };
        let no_caches = Offered {
            standard: StandardSet::EMPTY.with(StandardEvent::StalledFrontend),
            ..ALL
        };
        let architectural = Offered {
            standard: StandardSet::EMPTY,
            ..ALL
        };
        let text = warning("model=amd-v2", no_caches).unwrap();
        for word in [
            "L1-dcache-load-misses, L1-icache-loads",
            "reads 0",
            "intel-v2",
        ] {
            assert!(text.contains(word), "{text}");
        }
        assert!(
            !text.contains("stalled-cycles-frontend") && !text.contains("filter="),
            "{text}"
        );
        let text = warning("model=amd-v2,filter=architectural", architectural).unwrap();
        for word in [
            "stalled-cycles-frontend",
            "dTLB-loads",
            "filter=standard counts",
        ] {
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(warning("model=amd-v2,filter=all", ALL), None);
    }

    /// G-201 and G-202: one leaf, two sets of registers.
    #[test]
    fn a_hybrid_guest_has_registers_by_the_type_of_its_vcpu() {
        let choice = Choice::hybrid(ArchEventSet::ALL, &FilterArg::Standard);
        let [core, atom] = [CoreType::Core, CoreType::Atom].map(|t| choice.config_of(Some(t)));
        assert_eq!(core.cpuid(), atom.cpuid());
        assert_eq!((core.counters().len(), atom.counters().len()), (12, 9));
        assert!(choice.to_string().contains("hybrid"), "{choice}");
        let plain = Choice::new(&asked("type=auto"), |_| ALL, None, None).unwrap();
        assert_eq!(plain.config_of(None), plain.config);
    }

    /// Without a name the host decides, and its model's limits hold.
    #[test]
    fn numbers_that_the_default_cannot_have_are_refused() {
        let error = Choice::new(
            &asked("type=auto,fixed=3"),
            |_| ALL,
            Some(Vendor::Amd),
            None,
        );
        let text = error.unwrap_err().to_string();
        assert_eq!(
            text,
            "fixed=3 is not possible with model=amd-v2; accepted: 0"
        );
        let error = Choice::new(
            &asked("type=auto,fixed=0"),
            |_| ALL,
            Some(Vendor::Intel),
            None,
        );
        let text = error.unwrap_err().to_string();
        assert_eq!(
            text,
            "fixed=0 is not possible with model=intel-v2; accepted: 1 to 3"
        );
    }
}
