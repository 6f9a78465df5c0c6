use super::*;
use crate::guest::{Model, ModelConfig, ModelKind};
use crate::host::sim::SimPmu;
use crate::ids::{MsrIndex, Pmc};
use crate::vcpu::VcpuPmu;
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use crate::x86::regs::EventSel;

fn raw(code: u64) -> EventCode {
    EventCode::Raw(RawEvent::of_event_sel(code))
}

#[test]
fn what_is_denied_is_denied_also_if_it_is_allowed() {
    let both = [ArchEvent::Cycles.into(), raw(0x1d1)];
    let filter = EventFilter::Lists(FilterLists::new(both, [raw(0x1d1)]));
    assert!(filter.admits(ArchEvent::Cycles.into()));
    assert!(!filter.admits(raw(0x1d1)));
    assert!(
        !filter.admits(ArchEvent::Instructions.into()),
        "not allowed"
    );
    let all_but = EventFilter::Lists(FilterLists::new([], [ArchEvent::Cycles.into()]));
    assert!(all_but.admits(raw(0x1d1)) && all_but.admits(ArchEvent::Branches.into()));
    assert_eq!(
        all_but.admitted(ArchEventSet::ALL).unavailable_mask(),
        1,
        "CPUID says so"
    );
}

#[test]
fn modifiers_do_not_get_around_a_list() {
    let filter = EventFilter::Lists(FilterLists::new([], [raw(0x1d1)]));
    let sel = EventSel::from_bits(0x53_01d1).with_cmask(3).with_inv(true);
    assert!(!filter.admits(raw(sel.into_bits())));
}

/// Issue: other encodings only on the same vendor and only where the policy
/// allows.
#[test]
fn codes_need_both_the_vendor_and_the_filter() {
    let sel = EventSel::from_bits(0x53_01d1);
    let demand = Demand::NotBacked(Encoding::Raw(sel));
    let rules = |filter, has_codes: bool| Rules {
        policy: Policy::Flexible,
        filter,
        codes: has_codes.then(|| CodesId::new(Vendor::Intel, 0x606a6, None)),
        ..Rules::default()
    };
    let judged = |r: Rules| r.judge(demand);
    assert_eq!(judged(rules(EventFilter::All, false)), demand);
    assert_eq!(
        judged(rules(EventFilter::Architectural, true)),
        Demand::Denied(Encoding::Raw(sel))
    );
    let Demand::Event(attr) = judged(rules(EventFilter::All, true)) else {
        panic!("it is backed");
    };
    assert_eq!(attr.code, raw(0x1d1));
    assert!(attr.privilege.user && attr.privilege.kernel);
    let any_thread = Demand::NotBacked(Encoding::Raw(sel.with_any_thread(true)));
    assert_eq!(rules(EventFilter::All, true).judge(any_thread), any_thread);
}

/// What becomes of a select of counter 0, and of fixed counter 1 counting
/// cycles, in a guest that may count any code of its host's vendor.
fn judged(model: &str, lists: FilterLists, sel: u64) -> [Option<Demand>; 2] {
    let kind = ModelKind::from_name(model).unwrap();
    let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
    let rules = Rules {
        filter: EventFilter::Lists(lists),
        codes: Some(CodesId::new(Vendor::Intel, 0x606a6, None)),
        ..Rules::default()
    };
    let host = SimPmu::new(4, ArchEventSet::ALL);
    let mut pmu = VcpuPmu::new(Model::new(config), host, rules);
    let index = match kind.vendor() {
        Vendor::Intel => 0x186,
        Vendor::Amd => 0xc001_0200,
    };
    pmu.wrmsr(MsrIndex(index), sel).unwrap();
    if kind.vendor() == Vendor::Intel {
        pmu.wrmsr(MsrIndex(0x38d), 0xb0).unwrap();
        pmu.wrmsr(MsrIndex(0x38f), 1 | 1 << 33).unwrap();
    }
    let demand = |pmc: Option<Pmc>| pmu.counters().find(|c| Some(c.pmc) == pmc)?.demand;
    [demand(Pmc::gp(0)), demand(Pmc::fixed(1))]
}

fn is_denied(demand: Option<Demand>) -> bool {
    matches!(demand, Some(Demand::Denied(_)))
}

/// A name and the code of its event are one entry; edge, invert and counter
/// mask do not lead around it.
#[test]
fn an_event_is_denied_by_its_name_and_by_its_code() {
    let cycles = EventCode::from(ArchEvent::Cycles);
    for entry in [cycles, raw(0x3c)] {
        for sel in [0x53_003c, 0x153_003c, 0x57_003c, 0xd3_003c, 0x1d3_003c] {
            let [gp, fixed] = judged("intel-v2", FilterLists::new([], [entry]), sel);
            assert!(is_denied(gp), "{entry:?} {sel:#x}: {gp:?}");
            assert!(is_denied(fixed), "{entry:?}: {fixed:?}");
        }
    }
    for entry in [cycles, raw(0x76)] {
        for sel in [0x53_0076, 0x153_0076, 0x57_0076] {
            let [gp, _] = judged("amd-v2", FilterLists::new([], [entry]), sel);
            assert!(is_denied(gp), "{entry:?} {sel:#x}: {gp:?}");
        }
    }
}

/// A code means what it means on the guest's vendor's CPUs.
#[test]
fn a_code_stands_for_no_event_of_the_other_vendor() {
    let deny = |code| FilterLists::new([], [raw(code)]);
    let [gp, fixed] = judged("intel-v2", deny(0x76), 0x53_003c);
    assert!(!is_denied(gp) && !is_denied(fixed), "AMD's cycles");
    let [gp, _] = judged("amd-v2", deny(0x3c), 0x53_0076);
    assert!(!is_denied(gp), "Intel's cycles");
    let [gp, _] = judged("intel-v2", deny(0x1_0000_003c), 0x53_003c);
    assert!(!is_denied(gp), "twelve bits of event select are AMD's");
}

#[test]
fn an_event_is_allowed_by_its_name_and_by_its_code() {
    let cycles = EventCode::from(ArchEvent::Cycles);
    for entry in [cycles, raw(0x3c)] {
        for sel in [0x53_003c, 0x153_003c] {
            let lists = FilterLists::new([entry], []);
            for demand in judged("intel-v2", lists, sel) {
                let is_event = matches!(demand, Some(Demand::Event(_)));
                assert!(is_event, "{entry:?} {sel:#x}: {demand:?}");
            }
        }
        let lists = FilterLists::new([entry], []);
        let [gp, _] = judged("intel-v2", lists, 0x53_00c0);
        assert!(is_denied(gp), "instructions are not listed: {gp:?}");
    }
}

/// An operator sees why it is not counted.
#[test]
fn what_the_filter_took_out_of_cpuid_is_denied_and_not_missing() {
    let lists = FilterLists::new([], [ArchEvent::Cycles.into()]);
    let not_backed = Demand::NotBacked(Encoding::Architectural(ArchEvent::Cycles));
    let judge = |filter: EventFilter| {
        let rules = Rules {
            filter,
            ..Rules::default()
        };
        rules.judge(not_backed)
    };
    assert!(is_denied(Some(judge(EventFilter::Lists(lists)))));
    assert_eq!(judge(EventFilter::All), not_backed);
}

/// CPUID must say what the counters will do.
#[test]
fn what_a_code_takes_away_is_not_offered() {
    let deny = EventFilter::Lists(FilterLists::new([], [raw(0x3c), raw(0xc0)]));
    let offered = |vendor| deny.clone().for_vendor(vendor).admitted(ArchEventSet::ALL);
    assert_eq!(offered(Vendor::Intel).unavailable_mask(), 0b11);
    assert_eq!(offered(Vendor::Amd).unavailable_mask(), 0b10);
}

/// On Intel hosts, Linux takes codes of event select 0 for its names of what
/// fixed counters count: 0300 would count reference cycles. A
/// general-purpose counter counts nothing by them.
#[test]
fn a_pseudo_code_of_the_host_is_no_event_of_a_counter() {
    let any = FilterLists::default();
    let names = FilterLists::new([], [ArchEvent::RefTsc.into()]);
    for lists in [any, names] {
        for sel in [0x53_0300, 0x153_0300, 0x53_0400, 0x53_0100, 0x53_8000] {
            let [gp, _] = judged("intel-v2", lists.clone(), sel);
            assert!(matches!(gp, Some(Demand::NotBacked(_))), "{sel:#x}: {gp:?}");
        }
    }
    let [gp, _] = judged("amd-v2", FilterLists::default(), 0x53_0300);
    assert!(matches!(gp, Some(Demand::Event(_))), "AMD has codes there");
}

/// A standard event is counted by the host's name for it, then by its code on CPUs of
/// its vendor; what neither counts, or the filter does not admit, is not counted.
#[test]
fn a_standard_event_is_counted_by_its_name_or_else_by_its_code() {
    use crate::x86::regs::AmdEventSel;
    use crate::x86::standard::{StandardEvent, StandardSet};

    let encoding = |code: u64| Encoding::AmdRaw(AmdEventSel::from_bits(0x53_0000 | code));
    let (loads, fetches, walks) = (encoding(0x40), encoding(0x80), encoding(0xf045));
    let rules = |filter| Rules {
        filter,
        codes: Some(CodesId::new(Vendor::Amd, 0xa2_0f12, None)),
        standard: StandardSet::EMPTY.with(StandardEvent::L1dLoads),
        standard_by_code: StandardSet::EMPTY.with(StandardEvent::L1iLoads),
        ..Rules::default()
    };
    let code = |rules: &Rules, encoding| match rules.judge(Demand::NotBacked(encoding)) {
        Demand::Event(event) => Some(event.code),
        _ => None,
    };
    let standard = rules(EventFilter::Standard);
    let name = EventCode::Standard(StandardEvent::L1dLoads);
    assert_eq!(code(&standard, loads), Some(name));
    assert_eq!(code(&standard, fetches), Some(raw(0x80)));
    assert!(standard.admits(raw(0x80)) && standard.admits(name));
    for (other, judged) in [
        (walks, Demand::NotBacked(walks)),
        (encoding(0xcb), Demand::Denied(encoding(0xcb))),
    ] {
        assert_eq!(standard.judge(Demand::NotBacked(other)), judged);
        assert_eq!(
            code(&rules(EventFilter::All), other),
            other.raw().map(|(raw, _)| EventCode::Raw(raw))
        );
    }
    for event in [loads, fetches] {
        let judged = rules(EventFilter::Architectural).judge(Demand::NotBacked(event));
        assert_eq!(judged, Demand::Denied(event));
    }
    let elsewhere = Rules {
        codes: None,
        ..standard
    };
    assert_eq!(code(&elsewhere, loads), Some(name), "a name goes anywhere");
    for other in [fetches, walks] {
        let judged = elsewhere.judge(Demand::NotBacked(other));
        assert_eq!(judged, Demand::NotBacked(other));
    }
    let merged = encoding(0x40 | 1 << 18);
    assert_eq!(
        elsewhere.judge(Demand::NotBacked(merged)),
        Demand::NotBacked(merged),
        "edges"
    );
}

/// A list has a standard event by its name and by its codes.
#[test]
fn a_list_names_a_standard_event_by_its_name_or_a_code() {
    use crate::x86::standard::StandardEvent;

    let name = EventCode::Standard(StandardEvent::L1iLoadMisses);
    for entry in [name, raw(0x81)] {
        let deny = EventFilter::Lists(FilterLists::new([], [entry]));
        let (amd, intel) = (
            deny.clone().for_vendor(Vendor::Amd),
            deny.for_vendor(Vendor::Intel),
        );
        for event in [name, raw(0x81), raw(0x1060)] {
            assert!(!amd.admits(event), "{entry}: {event}");
            assert_eq!(intel.admits(event), event != entry, "{entry}: {event}");
        }
        let allow = EventFilter::Lists(FilterLists::new([entry], [])).for_vendor(Vendor::Amd);
        assert!(allow.admits(name) && !allow.admits(ArchEvent::Cycles.into()));
    }
}
