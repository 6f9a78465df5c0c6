//! How registers of uncore PMUs count: their width, and what is at its end.

use super::model::{PowerForm, UncorePmu};
use super::registers::{COUNTER_MASK, UMC_OVERFLOW};
use crate::units::Count;

/// What every energy counter starts at. Linux hides a domain that reads 0 when
/// its driver is loaded (G-601).
pub(super) const ENERGY_START: u64 = 1 << 16;

impl UncorePmu {
    /// What `value` is after `count` more. The counters of L3 and data fabric
    /// wrap at 2^48; those of a memory controller stop at their end and say so in
    /// bit 48, until they are written. Energy is kept in full (see
    /// [`PowerForm::register`]).
    pub(super) const fn after(self, value: u64, count: Count) -> u64 {
        match self {
            Self::Power => value.wrapping_add(count.0),
            Self::L3 | Self::DataFabric => value.wrapping_add(count.0) & COUNTER_MASK,
            Self::Umc(_) if value & UMC_OVERFLOW != 0 => value,
            Self::Umc(_) => match value.checked_add(count.0) {
                Some(sum) if sum <= COUNTER_MASK => sum,
                _ => UMC_OVERFLOW | COUNTER_MASK,
            },
        }
    }
}

impl PowerForm {
    /// The energy register for so many units of 2^-32 J: 32 bits that wrap.
    pub(super) const fn register(self, energy: u64) -> u64 {
        let units = energy >> (32 - self.energy_shift());
        units.wrapping_add(ENERGY_START) & 0xffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Energy;

    /// Guest-contract §6: L3 and data fabric wrap at 48 bits, and what a memory
    /// controller counts stays at its end, with bit 48 set.
    #[test]
    fn counters_wrap_and_those_of_memory_controllers_saturate() {
        let last = COUNTER_MASK;
        for pmu in [UncorePmu::L3, UncorePmu::DataFabric] {
            assert_eq!(pmu.after(last, Count(1)), 0);
            assert_eq!(pmu.after(last - 1, Count(u64::MAX)), last - 2);
        }
        let umc = UncorePmu::Umc(0);
        assert_eq!(umc.after(last - 1, Count(1)), last);
        let end = umc.after(last, Count(1));
        assert_eq!(end, 0x1_ffff_ffff_ffff);
        assert_eq!(umc.after(end, Count(5)), end);
        assert_eq!(umc.after(5, Count(u64::MAX)), end);
    }

    /// G-601, and guest-contract §6: 32 bits in units of 2^-14 or 2^-16 J.
    #[test]
    fn energy_starts_above_zero_and_wraps_at_32_bits() {
        for form in [PowerForm::Intel, PowerForm::Amd] {
            assert_eq!(form.register(0), ENERGY_START);
            let per_joule = form.register(Energy::PER_JOULE) - ENERGY_START;
            assert_eq!(per_joule, 1 << (form.unit() >> 8 & 0x1f));
            let whole = (1u64 << 32) << (32 - form.energy_shift());
            assert_eq!(form.register(whole), ENERGY_START, "a whole turn");
            let half_a_unit = (1 << (32 - form.energy_shift())) - 1;
            assert_eq!(form.register(half_a_unit), ENERGY_START);
        }
    }
}
