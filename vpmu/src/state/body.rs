//! What a state holds, and its place among the bytes.

use alloc::vec::Vec;

use crate::guest::{CoreType, Identity};
use crate::host::LevelMemory;
use crate::ids::{MsrIndex, PmcSet};
use crate::rules::{CodesId, Policy};
use crate::totals::Totals;
use crate::units::Nanos;
use crate::x86::cpuid::Vendor;
use crate::x86::event::{ArchEvent, ArchEventSet};

use super::RestoreError;
use super::event::SavedEvent;
use super::wire::{Reader, Writer};

/// The state of a vCPU's PMU at one moment, all counts folded into its registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The model.
    pub(crate) model: Identity,
    /// What the operator let it do.
    pub(crate) rules: SavedRules,
    /// Each register that stores something.
    pub(crate) registers: Vec<(MsrIndex, u64)>,
    /// Wraps that a PMI tells of where no status register does.
    pub(crate) told: PmcSet,
    /// A PMI may be raised.
    pub(crate) armed: bool,
    /// One was raised and not taken.
    pub(crate) pmi: bool,
    /// Totals since the vCPU started.
    pub(crate) totals: Totals,
    /// Guest time to the next rotation, while counters take turns.
    pub(crate) turn: Option<Nanos>,
    /// What samples of the guest's privilege level came to, on a clock.
    pub(crate) levels: Option<LevelMemory>,
    /// The counters that have events, in the order of their turns.
    pub(crate) events: Vec<SavedEvent>,
}

/// The rules as far as they can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedRules {
    /// How the counters share the host's.
    pub(crate) policy: Policy,
    /// Whose event codes the guest may use.
    pub(crate) codes: Option<CodesId>,
    /// A checksum of the filter.
    pub(crate) filter: u32,
}

/// The longest time that is believed: 146 years.
pub(super) const LONGEST: u64 = 1 << 62;
/// The largest total that is believed: those of all vCPUs can be added up.
const MOST: u64 = 1 << 56;

impl Saved {
    pub(super) fn write(&self, w: &mut Writer) {
        write_model(w, &self.model);
        w.byte(match self.rules.policy {
            Policy::Flexible => 0,
            Policy::Pinned => 1,
        });
        write_codes(w, self.rules.codes);
        w.half(self.rules.filter);
        w.count(self.registers.len());
        for (msr, value) in &self.registers {
            w.half(msr.0);
            w.word(*value);
        }
        w.word(self.told.0);
        w.byte(self.armed.into());
        w.byte(self.pmi.into());
        for total in list(&self.totals) {
            w.word(total);
        }
        w.byte(self.turn.is_some().into());
        w.word(self.turn.unwrap_or_default().0);
        write_levels(w, self.levels);
        w.count(self.events.len());
        for event in &self.events {
            event.write(w);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, RestoreError> {
        let model = read_model(r)?;
        let rules = SavedRules {
            policy: match r.byte()? {
                0 => Policy::Flexible,
                1 => Policy::Pinned,
                _ => return Err(RestoreError::Impossible("its policy")),
            },
            codes: read_codes(r)?,
            filter: r.half()?,
        };
        let registers = (0..r.byte()?)
            .map(|_| Ok((MsrIndex(r.half()?), r.word()?)))
            .collect::<Result<_, RestoreError>>()?;
        let told = PmcSet(r.word()?);
        let (armed, pmi) = (r.flag("whether it is armed")?, r.flag("its PMI")?);
        let totals = read_totals(r)?;
        let turn = match (r.flag("its turn")?, r.word()?) {
            (true, rest) if rest < LONGEST => Some(Nanos(rest)),
            (false, 0) => None,
            _ => return Err(RestoreError::Impossible("its turn")),
        };
        let levels = read_levels(r)?;
        let events: Vec<SavedEvent> = (0..r.byte()?)
            .map(|_| SavedEvent::read(r))
            .collect::<Result<_, RestoreError>>()?;
        let mut seen = PmcSet::EMPTY;
        for event in &events {
            if seen.contains(event.pmc) {
                return Err(RestoreError::Impossible("two events of one counter"));
            }
            seen.insert(event.pmc);
        }
        Ok(Self {
            model,
            rules,
            registers,
            told,
            armed,
            pmi,
            totals,
            turn,
            levels,
            events,
        })
    }
}

const fn number_of(vendor: Vendor) -> u8 {
    match vendor {
        Vendor::Intel => 1,
        Vendor::Amd => 2,
    }
}

const fn vendor_of(number: u8) -> Option<Vendor> {
    match number {
        1 => Some(Vendor::Intel),
        2 => Some(Vendor::Amd),
        _ => None,
    }
}

fn write_codes(w: &mut Writer, codes: Option<CodesId>) {
    w.byte(codes.map_or(0, |codes| number_of(codes.vendor)));
    w.half(codes.map_or(0, |codes| codes.signature));
    w.byte(match codes.and_then(|codes| codes.core_type) {
        None => 0,
        Some(CoreType::Core) => 1,
        Some(CoreType::Atom) => 2,
    });
}

fn read_codes(r: &mut Reader<'_>) -> Result<Option<CodesId>, RestoreError> {
    const WHAT: RestoreError = RestoreError::Impossible("its rule for codes");
    let (vendor, signature) = (r.byte()?, r.half()?);
    let core_type = match r.byte()? {
        0 => None,
        1 => Some(CoreType::Core),
        2 => Some(CoreType::Atom),
        _ => return Err(WHAT),
    };
    match (vendor, signature, core_type) {
        (0, 0, None) => Ok(None),
        _ => {
            let vendor = vendor_of(vendor).ok_or(WHAT)?;
            Ok(Some(CodesId::new(vendor, signature, core_type)))
        }
    }
}

fn write_model(w: &mut Writer, model: &Identity) {
    w.byte(number_of(model.vendor));
    w.byte(model.version);
    w.byte(model.width);
    w.byte(model.metrics.into());
    w.byte(model.events.bits());
    w.word(model.counters.0);
    w.word(model.shown.0);
}

/// Whether there is such a model is seen when it is compared with one.
fn read_model(r: &mut Reader<'_>) -> Result<Identity, RestoreError> {
    const NO_VENDOR: RestoreError = RestoreError::Impossible("the vendor of its model");
    let vendor = vendor_of(r.byte()?).ok_or(NO_VENDOR)?;
    let (version, width) = (r.byte()?, r.byte()?);
    let metrics = r.flag("whether its model has metrics")?;
    let events = r.byte()?;
    let has_event = |e: &ArchEvent| events & 1 << *e as u8 != 0;
    Ok(Identity {
        vendor,
        version,
        width,
        metrics,
        events: ArchEvent::ALL
            .into_iter()
            .filter(has_event)
            .collect::<ArchEventSet>(),
        counters: PmcSet(r.word()?),
        shown: PmcSet(r.word()?),
    })
}

fn list(totals: &Totals) -> [u64; 12] {
    let Totals {
        overflows,
        skid,
        longest_skid,
        pmis_injected,
        pmis_suppressed,
        not_counted,
        scaled_reads,
        pinned_errors,
        starved,
        rotations,
        host_revocations,
        estimated,
    } = *totals;
    [
        overflows,
        // Grows by whole periods and may be anything.
        skid.min(MOST - 1),
        longest_skid.min(MOST - 1),
        pmis_injected,
        pmis_suppressed,
        not_counted,
        scaled_reads,
        pinned_errors,
        starved,
        rotations,
        host_revocations,
        estimated,
    ]
}

fn read_totals(r: &mut Reader<'_>) -> Result<Totals, RestoreError> {
    let mut next = || match r.word()? {
        total if total < MOST => Ok(total),
        _ => Err(RestoreError::Impossible("its totals")),
    };
    let totals = Totals {
        overflows: next()?,
        skid: next()?,
        longest_skid: next()?,
        pmis_injected: next()?,
        pmis_suppressed: next()?,
        not_counted: next()?,
        scaled_reads: next()?,
        pinned_errors: next()?,
        starved: next()?,
        rotations: next()?,
        host_revocations: next()?,
        estimated: next()?,
    };
    if totals.pinned_errors > totals.not_counted {
        return Err(RestoreError::Impossible("its totals"));
    }
    Ok(totals)
}

fn write_levels(w: &mut Writer, levels: Option<LevelMemory>) {
    w.byte(levels.is_some().into());
    let (share, dice, next) = levels.map_or((0, 0, Nanos(0)), |levels| {
        (levels.user_share, levels.dice, levels.next)
    });
    w.half(share);
    w.half(dice);
    w.word(next.0);
}

fn read_levels(r: &mut Reader<'_>) -> Result<Option<LevelMemory>, RestoreError> {
    const WHAT: &str = "its samples of levels";
    let is_there = r.flag(WHAT)?;
    let levels = LevelMemory {
        user_share: r.half()?,
        dice: r.half()?,
        next: Nanos(r.word()?),
    };
    let nothing = LevelMemory {
        user_share: 0,
        dice: 0,
        next: Nanos(0),
    };
    match is_there {
        true if levels.is_possible() => Ok(Some(levels)),
        false if levels == nothing => Ok(None),
        _ => Err(RestoreError::Impossible(WHAT)),
    }
}
