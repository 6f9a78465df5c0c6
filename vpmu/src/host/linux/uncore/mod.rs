//! Uncore PMUs of the host (`power`, `amd_l3`, …): events of CPUs, not of
//! threads.
//!
//! ```text
//!  UncoreSource: the PMU, its instances, its formats ◀─ sysfs
//!   └ LinuxUncore (UncoreHost) ─ encode: a guest's select ─▶ config
//!       └ event ─▶ Followed: on the CPU that the cpumask names, and after it
//!                   └ EnergyShare: the guest's part, if not all of it
//! ```

mod encode;
mod follow;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::host::{
    CpuTimes, EnergyShare, EqualParts, HostOpenError, ReadError, ScopeInstance, UncoreCount,
    UncoreEvent, UncoreEventId, UncoreHost,
};
use crate::units::{Count, Energy};

use encode::Encoded;
use follow::{CpuEvents, Followed, HostEvents};

pub use source::{UncorePlace, UncoreSource, UncoreSourceError};

/// What an instance of the guest is shown of the host's.
#[derive(Debug)]
pub enum Shown {
    /// All that the one counts which stands under the number of the guest's,
    /// counted round if the guest has more.
    Raw,
    /// Of energy, the guest's part by CPU time of what all count together; of
    /// anything else, as with `Raw`.
    ByCpuTime(Box<dyn CpuTimes + Send>),
}

/// Instances of an uncore PMU of the host, behind one of a guest's.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::Sysfs;
/// use vpmu::host::linux::uncore::{LinuxUncore, Shown, UncoreSource};
///
/// // An error on a host without RAPL.
/// if let Ok(source) = UncoreSource::find(&Sysfs::default(), "power") {
///     let power = LinuxUncore::new(source.places().collect(), Shown::Raw);
///     # drop(power);
/// }
/// ```
#[derive(Debug)]
pub struct LinuxUncore {
    places: Vec<UncorePlace>,
    shown: Shown,
    readers: u16,
    events: BTreeMap<UncoreEventId, LinuxUncoreEvent<HostEvents>>,
}

/// An open event.
#[derive(Debug)]
struct LinuxUncoreEvent<E: CpuEvents> {
    instance: ScopeInstance,
    parts: Vec<Part<E>>,
    /// The guest has a part alone.
    share: Option<EnergyShare>,
    /// Of energy.
    parts_of_readers: EqualParts,
}

/// The event on one instance of the host's.
#[derive(Debug)]
struct Part<E: CpuEvents> {
    host: E,
    encoded: Encoded,
    followed: Followed<E::Event>,
}

impl LinuxUncore {
    /// A driver with no event open.
    #[must_use]
    pub const fn new(places: Vec<UncorePlace>, shown: Shown) -> Self {
        Self {
            places,
            shown,
            readers: 1,
            events: BTreeMap::new(),
        }
    }

    /// The same for a guest in which so many readers add up the energy of one
    /// instance: each is shown an equal part of it.
    #[must_use]
    pub fn for_readers(mut self, readers: u16) -> Self {
        self.readers = readers;
        self
    }

    /// The host's instances behind one of the guest's.
    fn behind(&self, instance: ScopeInstance, is_energy: bool) -> &[UncorePlace] {
        match self.shown {
            Shown::ByCpuTime(_) if is_energy => &self.places,
            Shown::Raw | Shown::ByCpuTime(_) => {
                let n = usize::from(instance.0) % self.places.len().max(1);
                self.places.get(n..=n).unwrap_or_default()
            }
        }
    }

    fn share(&mut self, instance: ScopeInstance) -> Result<Option<EnergyShare>, HostOpenError> {
        let Shown::ByCpuTime(times) = &mut self.shown else {
            return Ok(None);
        };
        let now = times.now(instance).ok_or(HostOpenError::Host(libc::EIO))?;
        Ok(Some(EnergyShare::from_now(now)))
    }
}

impl UncoreHost for LinuxUncore {
    fn open(
        &mut self,
        id: UncoreEventId,
        event: &UncoreEvent,
        instance: ScopeInstance,
    ) -> Result<(), HostOpenError> {
        let is_energy = matches!(event, UncoreEvent::Energy(_));
        let behind = self.behind(instance, is_energy).iter();
        let parts: Vec<_> = behind
            .map(|place| part(place, event))
            .collect::<Result<_, _>>()?;
        if parts.is_empty() {
            return Err(HostOpenError::Unsupported);
        }
        let share = if is_energy {
            self.share(instance)?
        } else {
            None
        };
        let open = LinuxUncoreEvent {
            instance,
            parts,
            share,
            parts_of_readers: EqualParts::new(self.readers),
        };
        self.events.insert(id, open);
        Ok(())
    }

    fn close(&mut self, id: UncoreEventId) {
        self.events.remove(&id);
    }

    fn read(&mut self, id: UncoreEventId) -> Result<UncoreCount, ReadError> {
        let open = self.events.get_mut(&id).ok_or(ReadError::Lost)?;
        let (mut events, mut spent) = (0_u64, None::<Energy>);
        for part in &mut open.parts {
            let count = part.followed.read(&part.host, part.encoded.config)?;
            match part.encoded.energy {
                Some(scale) => {
                    let before = spent.unwrap_or_default().0;
                    spent = Some(Energy(before.wrapping_add(scale.energy(count).0)));
                }
                None => events = events.wrapping_add(count),
            }
        }
        let Some(spent) = spent else {
            return Ok(UncoreCount::Events(Count(events)));
        };
        let guests = match (&mut open.share, &mut self.shown) {
            (Some(share), Shown::ByCpuTime(times)) => {
                let now = times.now(open.instance).ok_or(ReadError::Lost)?;
                share.update(spent, now)
            }
            _ => spent,
        };
        Ok(UncoreCount::Energy(open.parts_of_readers.update(guests)))
    }

    fn describe(&self, id: UncoreEventId) -> Option<String> {
        let open = self.events.get(&id)?;
        let parts: Vec<_> = open.parts.iter().map(Part::describe).collect();
        let mut text = parts.join(" + ");
        if open.share.is_some() {
            text += ", the part by CPU time";
        }
        if self.readers > 1 {
            text += &format!(", a part of {}", self.readers);
        }
        Some(text)
    }
}

/// Opens `event` on an instance.
fn part(place: &UncorePlace, event: &UncoreEvent) -> Result<Part<HostEvents>, HostOpenError> {
    let source = place.source();
    let encoded = source.encode(event).ok_or(HostOpenError::Unsupported)?;
    let host = source.host_events().clone();
    let (cpu, group) = (place.designated(), place.cpus().clone());
    match Followed::open(&host, encoded.config, cpu, group) {
        Ok(followed) => Ok(Part {
            host,
            encoded,
            followed,
        }),
        Err(error)
            if matches!(
                error.errno(),
                libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP
            ) =>
        {
            Err(HostOpenError::Unsupported)
        }
        Err(error) => Err(HostOpenError::Host(error.errno())),
    }
}

impl Part<HostEvents> {
    fn describe(&self) -> String {
        let (pmu, event) = (&self.host.name, &self.encoded.text);
        format!("{pmu}/{event}/ on host CPU {}", self.followed.describe())
    }
}

/// The energy that so many counts are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct EnergyScale(f64);

impl EnergyScale {
    /// From the text of `NAME.scale`, which makes joules of counts.
    fn parse(text: &str) -> Option<Self> {
        let joules: f64 = text.parse().ok()?;
        let units = joules * 4_294_967_296.0;
        (units.is_finite() && units > 0.0).then_some(Self(units))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the one scale that Linux has is 1; another is right to 15 digits"
    )]
    fn energy(self, count: u64) -> Energy {
        if (self.0 - 1.0).abs() < f64::EPSILON {
            Energy(count)
        } else {
            Energy((count as f64 * self.0) as u64)
        }
    }
}

/// Whether an event of `source` may be opened, tried on its first instance.
fn probe(source: &UncoreSource, event: &UncoreEvent) -> Result<(), super::PerfOpenError> {
    let (Some(encoded), Some((cpu, group))) = (source.encode(event), source.instances().first())
    else {
        return Ok(());
    };
    let host = source.host_events();
    Followed::open(host, encoded.config, *cpu, group.clone()).map(drop)
}
