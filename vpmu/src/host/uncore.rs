//! The driver contract of uncore PMUs: one counter serves a core, a die, a
//! package, and whoever asks reads the same one.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use super::pmu::{HostOpenError, ReadError};
use crate::units::{Count, Energy};

/// A host event of an uncore PMU. The caller numbers them: small, dense, reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UncoreEventId(pub u16);

/// One of the guest's instances of an uncore PMU: the one of its first die, its
/// second, and so on, over all packages, in the order of vCPU numbers.
///
/// # Examples
/// ```
/// use vpmu::host::ScopeInstance;
///
/// let second_package = ScopeInstance(1);
/// assert!(ScopeInstance(0) < second_package);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeInstance(pub u16);

impl fmt::Display for ScopeInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What energy is spent by.
///
/// # Examples
/// ```
/// use vpmu::host::EnergyDomain;
///
/// let names = EnergyDomain::ALL.map(EnergyDomain::name);
/// assert!(names.contains(&"energy-pkg"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnergyDomain {
    /// The package: `energy-pkg`.
    Package,
    /// Its cores, PP0: `energy-cores`.
    Cores,
    /// Its memory: `energy-ram`.
    Memory,
    /// Its graphics, PP1: `energy-gpu`.
    Graphics,
    /// The whole platform: `energy-psys`.
    Platform,
}

impl EnergyDomain {
    /// Every domain.
    pub const ALL: [Self; 5] = [
        Self::Package,
        Self::Cores,
        Self::Memory,
        Self::Graphics,
        Self::Platform,
    ];

    /// Its name in the `events` directory of the PMU `power`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Package => "energy-pkg",
            Self::Cores => "energy-cores",
            Self::Memory => "energy-ram",
            Self::Graphics => "energy-gpu",
            Self::Platform => "energy-psys",
        }
    }
}

/// What a guest wrote to a select register, without the enable bit and what the
/// register does not keep. The host's PMU of the same kind takes it as `config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawSelect(pub u64);

/// What an uncore PMU counts.
///
/// # Examples
/// ```
/// use vpmu::host::{EnergyDomain, RawSelect, UncoreEvent};
///
/// let misses = UncoreEvent::L3(RawSelect(0x0104));
/// assert_eq!(misses.to_string(), "amd_l3/config=0x104/");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UncoreEvent {
    /// Energy.
    Energy(EnergyDomain),
    /// Of a last-level cache: event in bits 7:0, unit mask in 15:8, slices and
    /// threads (of the guest's numbering) in 63:42.
    L3(RawSelect),
    /// Of a node's data fabric: event in bits 7:0, 37:32 and 60:59, unit mask in
    /// 15:8 and 27:24.
    DataFabric(RawSelect),
    /// Of a memory controller: event in bits 7:0, reads or writes in 9:8.
    Umc {
        /// The controller, counted within its node.
        unit: u8,
        /// What of it.
        select: RawSelect,
    },
}

impl fmt::Display for UncoreEvent {
    /// As perf writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Energy(domain) => write!(f, "power/{}/", domain.name()),
            Self::L3(RawSelect(raw)) => write!(f, "amd_l3/config={raw:#x}/"),
            Self::DataFabric(RawSelect(raw)) => write!(f, "amd_df/config={raw:#x}/"),
            Self::Umc { unit, select } => write!(f, "amd_umc_{unit}/config={:#x}/", select.0),
        }
    }
}

/// A count, with its unit.
///
/// # Examples
/// ```
/// use vpmu::host::{RawSelect, UncoreCount, UncoreEvent};
/// use vpmu::units::{Count, Energy};
///
/// let event = UncoreEvent::L3(RawSelect(0x0104));
/// assert_eq!(UncoreCount::Events(Count(7)).of(&event), Some(Count(7)));
/// assert_eq!(UncoreCount::Energy(Energy(7)).of(&event), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncoreCount {
    /// Of every event but energy.
    Events(Count),
    /// Of [`UncoreEvent::Energy`].
    Energy(Energy),
}

impl UncoreCount {
    /// The number, if its unit is that of `event`.
    #[must_use]
    pub const fn of(self, event: &UncoreEvent) -> Option<Count> {
        match (self, event) {
            (Self::Energy(Energy(n)), UncoreEvent::Energy(_)) => Some(Count(n)),
            (Self::Events(_), UncoreEvent::Energy(_)) | (Self::Energy(_), _) => None,
            (Self::Events(n), _) => Some(n),
        }
    }
}

/// The host behind one uncore PMU of a guest.
///
/// An event counts from `open` to `close` and is never stopped in between.
/// Which host CPU it is opened on, and that it follows when the host's own
/// designated CPU changes, is the host's business: a count goes on over that.
///
/// # Examples
/// ```
/// use vpmu::host::{HostOpenError, ReadError, ScopeInstance};
/// use vpmu::host::{UncoreCount, UncoreEvent, UncoreEventId, UncoreHost};
///
/// /// A host without uncore PMUs.
/// #[derive(Debug)]
/// struct Nothing;
///
/// impl UncoreHost for Nothing {
///     fn open(
///         &mut self,
///         _: UncoreEventId,
///         _: &UncoreEvent,
///         _: ScopeInstance,
///     ) -> Result<(), HostOpenError> {
///         Err(HostOpenError::Unsupported)
///     }
///     fn close(&mut self, _: UncoreEventId) {}
///     fn read(&mut self, _: UncoreEventId) -> Result<UncoreCount, ReadError> {
///         Err(ReadError::Lost)
///     }
///     fn describe(&self, _: UncoreEventId) -> Option<String> {
///         None
///     }
/// }
/// ```
pub trait UncoreHost: fmt::Debug {
    /// Makes an event that counts from 0 from now on. `id` must be free.
    ///
    /// # Errors
    /// [`HostOpenError`]; nothing is open then.
    fn open(
        &mut self,
        id: UncoreEventId,
        event: &UncoreEvent,
        instance: ScopeInstance,
    ) -> Result<(), HostOpenError>;

    /// Stops and forgets; `id` is free afterwards. No-op on a free one.
    fn close(&mut self, id: UncoreEventId);

    /// The count since `open`, which wraps at 2^64 and never runs backwards.
    ///
    /// # Errors
    /// [`ReadError`] if the host has no count to give, or only part of one:
    /// never a made-up one. The event is closed next.
    fn read(&mut self, id: UncoreEventId) -> Result<UncoreCount, ReadError>;

    /// The host event behind an open `id`, in words for the operator, such as
    /// `amd_l3/config=0xff04/ on host CPU 8`.
    fn describe(&self, id: UncoreEventId) -> Option<String>;
}

impl<H: UncoreHost + ?Sized> UncoreHost for Box<H> {
    fn open(
        &mut self,
        id: UncoreEventId,
        event: &UncoreEvent,
        instance: ScopeInstance,
    ) -> Result<(), HostOpenError> {
        (**self).open(id, event, instance)
    }
    fn close(&mut self, id: UncoreEventId) {
        (**self).close(id);
    }
    fn read(&mut self, id: UncoreEventId) -> Result<UncoreCount, ReadError> {
        (**self).read(id)
    }
    fn describe(&self, id: UncoreEventId) -> Option<String> {
        (**self).describe(id)
    }
}
