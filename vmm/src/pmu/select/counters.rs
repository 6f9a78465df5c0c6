//! Finds how many counters of a host PMU are free now.

use std::io;
use std::thread;

use vpmu::host::linux::probe::pinned_counters;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::host::linux::{EventSource, PerfOpenError};
use vpmu::x86::event::ArchEvent;

use crate::sys::affinity;

/// Why the number could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// The host opens no such event.
    #[error(transparent)]
    Open(#[from] PerfOpenError),
    /// No thread could be put on a CPU of the PMU.
    #[error("cannot bind a thread to a CPU of the PMU")]
    Bind(#[from] io::Error),
    /// The PMU has no CPU that this process may use.
    #[error("this process may not run on any CPU of the PMU")]
    NoCpu,
    /// The thread that tried is gone.
    #[error("the thread that opened counters panicked")]
    Died,
}

/// The counters that `source` gives for `event` on each of `cpus` at least, on
/// which it counts: what a vCPU that may run on any of them is sure of. About
/// 30 system calls for each CPU, on a thread of its own.
///
/// # Errors
/// [`CountersError`]
pub fn free_counters(
    source: EventSource,
    event: ArchEvent,
    cpus: &CpuSet,
) -> Result<usize, CountersError> {
    let on_each = || {
        let mut least = None;
        for cpu in cpus.iter() {
            affinity::bind_this_thread(&[cpu].into_iter().collect())?;
            let found = pinned_counters(source, event)?;
            least = Some(least.map_or(found, |least: usize| least.min(found)));
        }
        least.ok_or(CountersError::NoCpu)
    };
    // This thread stays where it is.
    thread::scope(|scope| {
        scope
            .spawn(on_each)
            .join()
            .map_err(|_| CountersError::Died)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpmu::ids::PmuType;

    #[test]
    fn no_cpu_and_no_pmu_are_said() {
        let absent = EventSource::Pmu(PmuType(0xfff0));
        let none = free_counters(absent, ArchEvent::Cycles, &CpuSet::default());
        assert!(matches!(none, Err(CountersError::NoCpu)));
        let here = affinity::Tid::current().affinity().unwrap();
        let error = free_counters(absent, ArchEvent::Cycles, &here).unwrap_err();
        assert!(matches!(error, CountersError::Open(_)), "{error}");
        assert_eq!(affinity::Tid::current().affinity().unwrap(), here);
    }
}
