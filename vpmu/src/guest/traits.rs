//! What every model offers to the vCPU's PMU.

use core::fmt;

use crate::host::{HostEvent, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::{PmuCpuid, Vendor};
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use crate::x86::msr::{Access, MsrError, OrElseIfUnknown, Register};
use crate::x86::regs::{AmdEventSel, EventSel, FixedCtrl};
use crate::x86::standard::StandardEvent;

use super::refusal;

/// What a counter that runs is asked to count.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig, Demand, GuestPmu};
/// use vpmu::ids::{MsrIndex, Pmc};
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
/// let mut pmu = ArchPerfmon::new(config);
/// let gp0 = Pmc::gp(0).unwrap();
/// assert_eq!(pmu.demand(gp0), None);
/// pmu.wrmsr(MsrIndex(0x186), 0x41_003c).unwrap(); // cycles, in user mode
/// let Some(Demand::Event(event)) = pmu.demand(gp0) else {
///     panic!("it counts");
/// };
/// assert_eq!(event.code, ArchEvent::Cycles.into());
/// assert!(event.privilege.user && !event.privilege.kernel);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// An event that means the same on every CPU.
    Event(HostEvent),
    /// Something that no host event stands for: not counted.
    NotBacked(Encoding),
    /// Something that the operator does not let a guest count.
    Denied(Encoding),
}

/// How a guest names an event.
///
/// # Examples
/// ```
/// use vpmu::guest::Encoding;
/// use vpmu::x86::event::ArchEvent;
/// use vpmu::x86::regs::EventSel;
///
/// assert_eq!(Encoding::Architectural(ArchEvent::Cycles).to_string(), "cycles");
/// let raw = Encoding::Raw(EventSel::from_bits(0x01d1));
/// assert_eq!(raw.to_string(), "raw event select 0x1d1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// By an architectural code, or by the fixed counter.
    Architectural(ArchEvent),
    /// By another code, or with modifiers.
    Raw(EventSel),
    /// By another code of AMD's, or with modifiers.
    AmdRaw(AmdEventSel),
    /// By a fixed counter that has no event here (3 counts slots), or with its
    /// AnyThread bit.
    Fixed(u8, FixedCtrl),
}

impl Encoding {
    /// The event by its code and where it counts, if a code says all of it and a
    /// host takes it for the same.
    #[must_use]
    pub fn raw(&self) -> Option<(RawEvent, Privilege)> {
        let (bits, user, kernel) = match self {
            Self::Raw(sel) if !sel.any_thread() && !sel.is_pseudo() => {
                (sel.into_bits(), sel.usr(), sel.os())
            }
            Self::AmdRaw(sel) => (sel.into_bits(), sel.usr(), sel.os()),
            _ => return None,
        };
        Some((RawEvent::of_event_sel(bits), Privilege { user, kernel }))
    }

    /// The standard event that it is on a CPU of its vendor. Of Intel's models here
    /// no driver of Linux has such a table: their drivers go by CPUID alone.
    #[must_use]
    pub fn standard(&self) -> Option<StandardEvent> {
        match self {
            Self::AmdRaw(sel) => StandardEvent::from_amd_event_sel(*sel),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architectural(event) => f.write_str(event.name()),
            Self::Raw(sel) => write!(f, "raw event select {:#x}", sel.into_bits()),
            Self::AmdRaw(sel) => {
                if let Some(event) = self.standard() {
                    write!(f, "{event}, ")?;
                }
                write!(f, "raw AMD event select {:#x}", sel.into_bits())
            }
            Self::Fixed(i, ctrl) if ctrl.any_thread() => {
                write!(f, "fixed counter {i} for all threads of the core")
            }
            Self::Fixed(i, _) => write!(f, "what fixed counter {i} counts"),
        }
    }
}

/// What counting did to a counter.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig, GuestPmu, Wrap};
/// use vpmu::ids::{MsrIndex, Pmc};
/// use vpmu::units::Count;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
/// let mut pmu = ArchPerfmon::new(config);
/// pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap(); // with INT
/// pmu.wrmsr(MsrIndex(0x4c1), (1 << 48) - 10).unwrap();
/// let gp0 = Pmc::gp(0).unwrap();
/// assert_eq!(pmu.advance(gp0, Count(9)), Wrap::No);
/// assert_eq!(pmu.advance(gp0, Count(1)), Wrap::Interrupt);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// It did not wrap.
    No,
    /// It wrapped and its status bit is set; it asks for no interrupt.
    Silent,
    /// It wrapped, its status bit is set, and a PMI is due.
    Interrupt,
}

/// A model with its numbers: two that are equal have the same registers, and
/// say the same by CPUID.
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdPmu, AmdVersion, GuestPmu};
/// use vpmu::x86::event::ArchEventSet;
///
/// let of = |events| AmdPmu::new(AmdConfig::new(AmdVersion::V2, events)).identity();
/// assert_eq!(of(ArchEventSet::ALL), of(ArchEventSet::ALL));
/// assert_ne!(of(ArchEventSet::ALL), of(ArchEventSet::EMPTY), "a guest chose by its events");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose.
    pub vendor: Vendor,
    /// The version of architectural performance monitoring; AMD: 1 K7,
    /// 2 PERFCTR_CORE, 3 PerfMonV2.
    pub version: u8,
    /// Bits of a counter.
    pub width: u8,
    /// Whether PERF_METRICS is there.
    pub metrics: bool,
    /// The events that the guest was told of.
    pub events: ArchEventSet,
    /// Every counter.
    pub counters: PmcSet,
    /// The counters that CPUID shows.
    pub shown: PmcSet,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.vendor, self.version) {
            (Vendor::Intel, version) => write!(f, "intel-v{version}")?,
            (Vendor::Amd, 1) => f.write_str("amd-k7")?,
            (Vendor::Amd, 2) => f.write_str("amd-core")?,
            (Vendor::Amd, _) => f.write_str("amd-v2")?,
        }
        let metrics = if self.metrics { " and metrics" } else { "" };
        write!(
            f,
            " with counters {:#x}{metrics} of {} bits, {:#x} shown, events {:#x}",
            self.counters.0,
            self.width,
            self.shown.0,
            self.events.bits()
        )
    }
}

/// A guest PMU: its registers and their rules.
///
/// A count that a host event has collected enters by [`GuestPmu::advance`];
/// only then does the register file, and what it reads, move.
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdPmu, AmdVersion, GuestPmu};
/// use vpmu::ids::Pmc;
/// use vpmu::units::Count;
/// use vpmu::x86::event::ArchEventSet;
///
/// /// The events until the first of the counters wraps.
/// fn nearest(pmu: &impl GuestPmu) -> Option<Count> {
///     pmu.counters().iter().map(|pmc| pmu.distance(pmc)).min()
/// }
///
/// let pmu = AmdPmu::new(AmdConfig::new(AmdVersion::V2, ArchEventSet::ALL));
/// assert_eq!(nearest(&pmu), Some(Count(1 << 48)));
/// assert_eq!(pmu.rdpmc_counter(5), Pmc::gp(5));
/// ```
pub trait GuestPmu: fmt::Debug {
    /// What CPUID says of this PMU.
    fn cpuid(&self) -> PmuCpuid;

    /// The register at `msr`. An exit decodes its index once and hands the access
    /// on.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if this PMU has none there: another PMU of the VM may
    /// have it, and [`refusal`] tells why the access fails where none has.
    fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError>;

    /// Every counter of this PMU.
    fn counters(&self) -> PmcSet;

    /// RDMSR.
    ///
    /// # Errors
    /// [`MsrError::InvalidAccess`] for an access that another model gave.
    fn read(&self, access: Access<Register>) -> Result<u64, MsrError>;

    /// WRMSR. A refused write changes nothing.
    ///
    /// # Errors
    /// [`MsrError::InvalidAccess`]: #GP.
    fn write(&mut self, access: Access<Register>, value: u64) -> Result<(), MsrError>;

    /// The register at `msr`, in a VM whose only PMU this is.
    ///
    /// # Errors
    /// [`refusal`]
    fn decode_alone(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        self.decode(msr)
            .or_else_if_unknown(|| Err(refusal(self.identity().vendor, msr)))
    }

    /// RDMSR by index, in a VM whose only PMU this is.
    ///
    /// # Errors
    /// [`MsrError`]
    fn rdmsr(&self, msr: MsrIndex) -> Result<u64, MsrError> {
        self.read(self.decode_alone(msr)?)
    }

    /// WRMSR by index, in a VM whose only PMU this is.
    ///
    /// # Errors
    /// [`MsrError`]
    fn wrmsr(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let access = self.decode_alone(msr)?;
        self.write(access, value)
    }

    /// The counter that RDPMC reads with this ECX; `None` is #GP(0), unless
    /// [`GuestPmu::rdpmc_other`] knows it.
    fn rdpmc_counter(&self, ecx: u32) -> Option<Pmc>;

    /// What RDPMC reads with an ECX that stands for no counter (PERF_METRICS);
    /// `None` is #GP(0).
    fn rdpmc_other(&self, ecx: u32) -> Option<u64> {
        let _ = ecx;
        None
    }

    /// The current register value of `pmc`; 0 for one that is not there.
    fn value(&self, pmc: Pmc) -> u64;

    /// What `pmc` should be counting now; `None` while it is stopped or filters
    /// every privilege level out.
    fn demand(&self, pmc: Pmc) -> Option<Demand>;

    /// Events from now to the wrap of `pmc`: at least 1.
    fn distance(&self, pmc: Pmc) -> Count;

    /// `pmc` has counted `events` more. A wrap that interrupts may stop every
    /// counter (freeze on PMI): their demands are to be asked for again.
    fn advance(&mut self, pmc: Pmc, events: Count) -> Wrap;

    /// Whether an overflow is reported in the status of a counter that asks for
    /// an interrupt. A PMU without a status register reports the wrap of a
    /// counter until a PMI told of it, the counter is written, or until the first
    /// write after the one that stopped it.
    fn interrupt_due(&self) -> bool;

    /// The PMI of [`GuestPmu::interrupt_due`] must wait for the end of the
    /// guest's NMI handler. Without a status register nobody will then claim
    /// the wrap of a counter that the handler has stopped: it is forgotten.
    fn interrupt_postponed(&mut self) {}

    /// A PMI has told of every wrap so far, or was lost at a masked LVTPC. Without
    /// a status register nothing is left of them: as on hardware, where the wrap
    /// itself is what interrupts.
    fn interrupt_told(&mut self) {}

    /// Whether the delivery of a PMI masks LVTPC, so that the next one waits for
    /// a write that arms ([`Access::arming`]). AMD's hardware does not, and each overflow interrupts
    /// (rule G-304).
    fn masks_pmi(&self) -> bool;

    /// Which model this is, with its numbers.
    fn identity(&self) -> Identity;

    /// Gives the register at `msr` this value without what a write does: also
    /// one that the guest can only read.
    ///
    /// # Errors
    /// [`MsrError`] if it is no register of this PMU, stores nothing, or cannot
    /// hold the value; nothing changes then.
    fn load(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError>;

    /// The wraps that a PMI tells of on a PMU without a status register; on
    /// others none.
    fn told(&self) -> PmcSet;

    /// Sets what [`GuestPmu::told`] says.
    ///
    /// # Errors
    /// [`MsrError::InvalidAccess`] if this PMU cannot have them.
    fn load_told(&mut self, told: PmcSet) -> Result<(), MsrError>;

    /// RESET of the CPU.
    fn reset(&mut self);
}
