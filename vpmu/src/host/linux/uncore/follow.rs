//! One event on the CPU that stands for its scope, and after it.
//!
//! As a rule the host's kernel moves the events of an uncore PMU itself when that
//! CPU goes offline (Linux: `perf_pmu_migrate_context`), and nothing is to be
//! done. Where it cannot, the last CPU of the scope being gone, it leaves an
//! event that stands still for good: its enabled time does. That is what is
//! looked for at each read; then the event is opened anew on the CPU that the
//! `cpumask` names by now, and what the old one had counted is kept.

use std::fmt::Debug;

use crate::host::ReadError;
use crate::host::linux::event::{CpuEvent, PerfOpenError, Reading};
use crate::host::linux::sysfs::{CpuSet, Sysfs};
use crate::ids::HostCpu;
use crate::ids::PmuType;

/// Events of one uncore PMU, and who stands for its scopes: the host, or a test.
pub(super) trait CpuEvents {
    /// An open event.
    type Event: Debug;

    /// Opens an event on a CPU, which counts from now on.
    fn open(&self, config: u64, cpu: HostCpu) -> Result<Self::Event, PerfOpenError>;

    /// What it has counted.
    fn read(&self, event: &Self::Event) -> Result<Reading, ReadError>;

    /// The CPU that stands now for the scope of these, and who they are now.
    fn designated(&self, group: &CpuSet) -> Option<(HostCpu, CpuSet)>;
}

/// The host's.
#[derive(Clone, Debug)]
pub(super) struct HostEvents {
    pub(super) sysfs: Sysfs,
    pub(super) name: String,
    pub(super) kind: PmuType,
}

impl CpuEvents for HostEvents {
    type Event = CpuEvent;

    fn open(&self, config: u64, cpu: HostCpu) -> Result<CpuEvent, PerfOpenError> {
        CpuEvent::open(self.kind.0, config, cpu)
    }

    fn read(&self, event: &CpuEvent) -> Result<Reading, ReadError> {
        event.read()
    }

    fn designated(&self, group: &CpuSet) -> Option<(HostCpu, CpuSet)> {
        let pmu = self.sysfs.pmu(&self.name).ok()??;
        let instances = self.sysfs.instances(&pmu).ok()?;
        instances
            .into_iter()
            .find(|(_, cpus)| !cpus.intersection(group).is_empty())
    }
}

/// An event that follows its scope.
#[derive(Debug)]
pub(super) struct Followed<T> {
    event: T,
    cpu: HostCpu,
    /// Every CPU that was ever seen to share the scope.
    group: CpuSet,
    /// What events before this one have counted.
    before: u64,
    last: Reading,
    /// How often it was opened anew.
    moves: u32,
    /// Nobody stands for the scope.
    orphaned: bool,
}

impl<T: Debug> Followed<T> {
    /// Opens it on `cpu`, which stands for `group`.
    pub(super) fn open<E: CpuEvents<Event = T>>(
        host: &E,
        config: u64,
        cpu: HostCpu,
        group: CpuSet,
    ) -> Result<Self, PerfOpenError> {
        Ok(Self {
            event: host.open(config, cpu)?,
            cpu,
            group,
            before: 0,
            last: Reading::default(),
            moves: 0,
            orphaned: false,
        })
    }

    /// The count since it was opened, over all moves.
    pub(super) fn read<E: CpuEvents<Event = T>>(
        &mut self,
        host: &E,
        config: u64,
    ) -> Result<u64, ReadError> {
        let now = host.read(&self.event);
        if let Ok(now) = now {
            let moves_on = now.enabled > self.last.enabled;
            self.last = now;
            if moves_on {
                return Ok(self.count());
            }
        }
        let Some((cpu, group)) = host.designated(&self.group) else {
            // None of its CPUs is online: nothing counts there.
            self.orphaned = true;
            return Ok(self.count());
        };
        match now {
            // It is where it should be, and another has its counter.
            Err(error) if cpu == self.cpu && !self.orphaned => return Err(error),
            _ => self.move_to(host, config, cpu)?,
        }
        self.group = self.group.union(&group);
        Ok(self.count())
    }

    fn move_to<E: CpuEvents<Event = T>>(
        &mut self,
        host: &E,
        config: u64,
        cpu: HostCpu,
    ) -> Result<(), ReadError> {
        let opened = host.open(config, cpu);
        self.event = opened.map_err(|error| ReadError::Host(error.errno()))?;
        self.before = self.count();
        (self.cpu, self.last, self.orphaned) = (cpu, Reading::default(), false);
        self.moves = self.moves.saturating_add(1);
        Ok(())
    }

    const fn count(&self) -> u64 {
        self.before.wrapping_add(self.last.count)
    }

    /// Where it counts, and what was missed.
    pub(super) fn describe(&self) -> String {
        let mut text = self.cpu.0.to_string();
        if self.orphaned {
            text += " (offline)";
        }
        if self.moves > 0 {
            text += &format!(
                " (opened anew after its CPU had gone offline, with a gap: {} so far)",
                self.moves
            );
        }
        let gap = self.last.enabled.saturating_sub(self.last.running);
        if gap > 0 {
            text += &format!(" ({} us missed as the host moved it)", gap.div_ceil(1_000));
        }
        text
    }
}
