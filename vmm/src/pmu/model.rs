//! Chooses the model of the guest's PMU.

use std::fmt;

use vpmu::CodesId;
use vpmu::guest::{
    AmdVersion, ArchPerfmonConfig, ArchVersion, CoreType, ModelConfig, ModelConfigError, ModelKind,
    Shape,
};
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::event::{ArchEvent, ArchEventSet};

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

/// What `perf stat`, `-d` and `-d -d` of an AMD guest open that is not architectural.
const BESIDE_THE_ARCHITECTURAL: &str = "stalled-cycles-frontend, stalled-cycles-backend, the \
     events of caches and TLBs (perf stat -d) and raw codes";

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
    events: ArchEventSet,
    reason: ModelReason,
    /// Whether the filter admits architectural events alone.
    architectural: bool,
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
    /// an AMD guest takes for granted (guest-contract §0). `events` says which
    /// are counted for a guest of a vendor.
    ///
    /// # Errors
    /// [`ChoiceError`] if the model cannot have the numbers that were asked for.
    pub(super) fn new(
        asked: &PmuConfig,
        events: impl Fn(Vendor) -> ArchEventSet,
        host: Option<Vendor>,
        found: Option<&Budget>,
    ) -> Result<Self, ChoiceError> {
        let is_whole = missing(events(Vendor::Amd)).next().is_none();
        let (kind, reason) = match (asked.model, host) {
            (Some(kind), _) => (kind, ModelReason::Asked),
            (None, Some(Vendor::Amd)) if is_whole => {
                (ModelKind::Amd(AmdVersion::V2), ModelReason::HostVendor)
            }
            (None, Some(Vendor::Amd)) => (ModelKind::INTEL_GENERIC, ModelReason::NotAllOfAmd),
            (None, Some(Vendor::Intel)) => (ModelKind::INTEL_GENERIC, ModelReason::HostVendor),
            (None, None) => (ModelKind::INTEL_GENERIC, ModelReason::OtherVendor),
        };
        let events = events(kind.vendor());
        let offered = offered(asked, kind, events);
        let shape = match found {
            Some(budget) => budget.shape(asked, kind, offered)?,
            None => offered,
        };
        let config = ModelConfig::new(kind, shape, events)?;
        Ok(Self {
            kind,
            config,
            events,
            reason,
            architectural: asked.filter == FilterArg::Architectural,
        })
    }

    /// The pair of a hybrid guest (rules G-201 to G-203). Its numbers are those
    /// that Linux makes of the model number, whatever the host has.
    pub(super) const fn hybrid(events: ArchEventSet) -> Self {
        Self {
            kind: ModelKind::Intel(ArchVersion::V5),
            // What CPUID shows is the same on both.
            config: ModelConfig::Intel(ArchPerfmonConfig::hybrid(CoreType::Core, events)),
            events,
            reason: ModelReason::Hybrid,
            architectural: false,
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
            let mut uncounted: Vec<_> = missing(self.events).map(ArchEvent::name).collect();
            if self.architectural {
                uncounted.push(BESIDE_THE_ARCHITECTURAL);
            }
            return (!uncounted.is_empty()).then(|| {
                let way_out = if self.architectural {
                    "filter=all counts what the host counts, and "
                } else {
                    ""
                };
                format!(
                    "model={}: an AMD CPU cannot say that an event is missing, and nothing counts {} \
                     here: the guest reads 0 for them; {way_out}model=intel-v2 would show <not supported>",
                    self.kind,
                    uncounted.join(", ")
                )
            });
        };
        if self.events.contains(ArchEvent::RefTsc) || config.fixed().len() <= WITHOUT_REF_TSC {
            return None;
        }
        let model = match self.reason {
            ModelReason::Hybrid => "a hybrid guest".to_owned(),
            _ => format!("model={} with fixed={}", self.kind, config.fixed().len()),
        };
        let way_out = match self.reason {
            ModelReason::Hybrid => String::new(),
            _ => format!("; fixed={WITHOUT_REF_TSC} would show <not supported>"),
        };
        Some(format!(
            "{model} has a fixed counter for ref-cycles, and nothing counts them here: the guest reads 0 \
             for them{way_out}"
        ))
    }
}

impl Choice {
    /// Whether the host's vendor's own model was passed over.
    pub(super) fn is_second_best(&self) -> bool {
        self.reason == ModelReason::NotAllOfAmd
    }
}

/// The events of an AMD guest that are not in `events`.
fn missing(events: ArchEventSet) -> impl Iterator<Item = ArchEvent> {
    ArchEventSet::AMD_GENERIC.without(events)
}

fn list(events: impl Iterator<Item = ArchEvent>) -> String {
    let names: Vec<_> = events.map(ArchEvent::name).collect();
    names.join(", ")
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            ModelReason::Asked => "asked for",
            ModelReason::HostVendor => "the host's vendor's",
            ModelReason::NotAllOfAmd => {
                let names = list(missing(self.events));
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

    fn asked(text: &str) -> PmuConfig {
        match PmuArg::parse(text) {
            Ok(PmuArg::On(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    /// Guest-contract §0: who gets which by default.
    #[test]
    fn the_default_is_the_hosts_vendors_where_it_can_be_honest() {
        let clock = [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect();
        let (amd, intel) = (Some(Vendor::Amd), Some(Vendor::Intel));
        for (events, host, model, why) in [
            (ArchEventSet::ALL, intel, "intel-v2", "vendor's"),
            (ArchEventSet::ALL, amd, "amd-v2", "vendor's"),
            (ArchEventSet::AMD_GENERIC, amd, "amd-v2", "vendor's"),
            (clock, amd, "intel-v2", "instructions, cache-references"),
            (clock, intel, "intel-v2", "vendor's"),
            (ArchEventSet::ALL, None, "intel-v2", "neither"),
        ] {
            let choice = Choice::new(&asked("type=auto"), |_| events, host, None).unwrap();
            assert_eq!(choice.kind.name(), model, "{host:?}");
            assert!(choice.to_string().contains(why), "{choice}");
            assert_eq!(choice.warning().is_some(), model == "amd-v2");
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
            let choice = Choice::new(&asked(text), |_| events, intel, None).unwrap();
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
        assert_eq!(Choice::hybrid(ArchEventSet::ALL).warning(), None);
        let warning = Choice::hybrid(without).warning().unwrap();
        assert!(warning.contains("ref-cycles") && !warning.contains("fixed=2"));
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
                filter
                    .clone()
                    .for_vendor(vendor)
                    .admitted(ArchEventSet::ALL)
            };
            let choice = Choice::new(&asked, events, amd, None).unwrap();
            let counted = ArchEvent::ALL.map(|event| choice.events.contains(event));
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
        let clock = [ArchEvent::Cycles].into_iter().collect();
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

    /// A guest on an AMD host with its own model opens these in a plain `perf stat -d`.
    #[test]
    fn events_that_the_filter_keeps_from_an_amd_guest_are_named() {
        let warning = |text| {
            let host = Some(Vendor::Amd);
            let choice = Choice::new(&asked(text), |_| ArchEventSet::ALL, host, None).unwrap();
            assert_eq!(choice.kind.name(), "amd-v2");
            choice.warning()
        };
        let text = warning("type=auto").unwrap();
        for word in ["stalled-cycles-frontend", "caches", "reads 0", "filter=all"] {
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(warning("type=auto,filter=all"), None);
    }

    /// G-201 and G-202: one leaf, two sets of registers.
    #[test]
    fn a_hybrid_guest_has_registers_by_the_type_of_its_vcpu() {
        let choice = Choice::hybrid(ArchEventSet::ALL);
        let [core, atom] = [CoreType::Core, CoreType::Atom].map(|t| choice.config_of(Some(t)));
        assert_eq!(core.cpuid(), atom.cpuid());
        assert_eq!((core.counters().len(), atom.counters().len()), (12, 9));
        assert!(choice.to_string().contains("hybrid"), "{choice}");
        let plain = Choice::new(&asked("type=auto"), |_| ArchEventSet::ALL, None, None).unwrap();
        assert_eq!(plain.config_of(None), plain.config);
    }

    /// Without a name the host decides, and its model's limits hold.
    #[test]
    fn numbers_that_the_default_cannot_have_are_refused() {
        let error = Choice::new(
            &asked("type=auto,fixed=3"),
            |_| ArchEventSet::ALL,
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
            |_| ArchEventSet::ALL,
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
