//! What a TSC was, and when: it goes on while nobody runs its vCPU.

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use vpmu::ids::MsrIndex;
use vpmu::units::Nanos;

use super::vcpu_image::{TSC, read_msrs};
use super::{KvmError, ioctl};
use crate::sys::clock::realtime;

/// A TSC at some moment of the host's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscMoment {
    tsc: u64,
    /// Its rate.
    khz: u32,
    /// Nanoseconds.
    realtime: u64,
}

impl TscMoment {
    /// That of a vCPU, now. Of a few looks the quickest counts: the thread may wait for a CPU
    /// between the one clock and the other.
    ///
    /// # Errors
    /// What the ioctls say.
    pub(super) fn of(fd: &VcpuFd) -> Result<Self, KvmError> {
        const LOOKS: usize = 4;
        let khz = fd.get_tsc_khz().map_err(ioctl("KVM_GET_TSC_KHZ"))?;
        let mut quickest = (u64::MAX, Self::default());
        for _ in 0..LOOKS {
            let Nanos(before) = realtime();
            let tsc = read_msrs(fd, &[MsrIndex(TSC)])?;
            let took = realtime().0.saturating_sub(before);
            let moment = Self {
                tsc: tsc.first().map(|(_, tsc)| *tsc).unwrap_or_default(),
                khz,
                realtime: before + took / 2,
            };
            if took < quickest.0 {
                quickest = (took, moment);
            }
        }
        Ok(quickest.1)
    }

    /// The TSC.
    #[must_use]
    pub const fn tsc(self) -> u64 {
        self.tsc
    }

    /// What it is now, as the guest's clock goes on as well.
    #[must_use]
    pub fn now(self) -> u64 {
        self.at(realtime())
    }

    /// What it is at a moment of the wall clock; before its own, what it was.
    fn at(self, Nanos(realtime): Nanos) -> u64 {
        let elapsed = u128::from(realtime.saturating_sub(self.realtime));
        let ticks = elapsed * u128::from(self.khz) / 1_000_000;
        self.tsc
            .wrapping_add(u64::try_from(ticks).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// machine.md §5: the time that passes while the guest does not run is added.
    #[test]
    fn a_tsc_goes_on_by_its_rate() {
        let moment = TscMoment {
            tsc: 1_000,
            khz: 2_500_000,
            realtime: 5_000_000_000,
        };
        assert_eq!(moment.at(Nanos(5_000_000_000)), 1_000);
        assert_eq!(moment.at(Nanos(7_000_000_000)), 5_000_001_000);
        assert_eq!(
            moment.at(Nanos(4_000_000_000)),
            1_000,
            "the clock was set back"
        );
    }
}
