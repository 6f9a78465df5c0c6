//! Intel architectural performance monitoring, version 2: the `intel-generic`
//! profile.
//!
//! SDM vol. 3B, "Architectural Performance Monitoring"; guest-contract §1.4
//! and §8.

mod config;
#[cfg(test)]
mod tests;

pub use config::{ArchPerfmonConfig, ConfigError};

use crate::host::{EventAttr, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::Leaf0A;
use crate::x86::event::ArchEvent;
use crate::x86::msr::{self, Register};
use crate::x86::regs::{EventSel, FixedCtrl, STATUS_COND_CHANGED, STATUS_DS_BUFFER};

use super::model::{Demand, Encoding, GuestPmu, MsrError, Wrap};

/// The register file of one vCPU.
#[derive(Clone, Debug)]
pub struct ArchPerfmon {
    config: ArchPerfmonConfig,
    event_sel: [EventSel; Pmc::MAX_GP as usize],
    /// By [`Pmc::slot`].
    values: [u64; Pmc::SLOTS],
    fixed_ctrl: u64,
    global_ctrl: PmcSet,
    global_status: PmcSet,
}

impl ArchPerfmon {
    /// A PMU after RESET.
    #[must_use]
    pub const fn new(config: ArchPerfmonConfig) -> Self {
        Self {
            config,
            event_sel: [EventSel::new(); Pmc::MAX_GP as usize],
            values: [0; Pmc::SLOTS],
            fixed_ctrl: 0,
            // SDM vol. 3A, "Processor State Following Power-up, Reset, or
            // INIT": all general-purpose counters, no fixed one.
            global_ctrl: config.general_purpose(),
            global_status: PmcSet::EMPTY,
        }
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &ArchPerfmonConfig {
        &self.config
    }

    /// The register at `msr`, if this shape has it.
    fn register(&self, msr: MsrIndex) -> Result<Register, MsrError> {
        let register = msr::decode(msr).ok_or(MsrError::Unknown)?;
        match register {
            Register::Counter(pmc)
            | Register::FullWidthCounter(pmc)
            | Register::EventSel(pmc)
            | Register::FixedCounter(pmc)
                if !self.config.counters().contains(pmc) =>
            {
                Err(MsrError::InvalidAccess)
            }
            Register::Absent => Err(MsrError::InvalidAccess),
            present => Ok(present),
        }
    }

    fn fixed_ctrl_of(&self, i: u8) -> FixedCtrl {
        FixedCtrl::from_bits((self.fixed_ctrl >> (4 * u32::from(i)) & 0xf) as u8)
    }

    /// OS, USR and PMI of each fixed counter; AnyThread is reserved.
    fn fixed_ctrl_mask(&self) -> u64 {
        let fields = self.config.fixed().iter().filter_map(Pmc::fixed_number);
        fields.fold(0, |mask, i| mask | 0b1011 << (4 * u32::from(i)))
    }

    fn asks_for_interrupt(&self, pmc: Pmc) -> bool {
        match pmc.fixed_number() {
            Some(i) => self.fixed_ctrl_of(i).pmi(),
            None => self.event_sel[pmc.slot()].int(),
        }
    }

    fn write_counter(&mut self, pmc: Pmc, value: u64) -> Result<(), MsrError> {
        self.values[pmc.slot()] = within(value, self.config.mask())?;
        Ok(())
    }
}

/// `value`, if it has no bit outside `mask`.
const fn within(value: u64, mask: u64) -> Result<u64, MsrError> {
    if value & !mask == 0 {
        Ok(value)
    } else {
        Err(MsrError::InvalidAccess)
    }
}

/// The low 32 bits with their sign extended to 64.
const fn sign_extended(value: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "a legacy counter write takes the low half as a signed number"
    )]
    {
        value as u32 as i32 as i64 as u64
    }
}

impl GuestPmu for ArchPerfmon {
    fn leaf_0a(&self) -> Leaf0A {
        self.config.leaf_0a()
    }

    fn counters(&self) -> PmcSet {
        self.config.counters()
    }

    fn touched_by(&self, msr: MsrIndex) -> PmcSet {
        match self.register(msr) {
            Ok(
                Register::Counter(pmc)
                | Register::FullWidthCounter(pmc)
                | Register::FixedCounter(pmc)
                | Register::EventSel(pmc),
            ) => pmc.into(),
            Ok(Register::FixedCtrCtrl) => self.config.fixed(),
            // The status must show every wrap that has happened (G-404).
            Ok(Register::GlobalCtrl | Register::GlobalStatus | Register::GlobalOvfCtrl) => {
                self.config.counters()
            }
            Ok(Register::PerfCapabilities | Register::Absent) | Err(_) => PmcSet::EMPTY,
        }
    }

    fn counter_at(&self, msr: MsrIndex) -> Option<Pmc> {
        match self.register(msr) {
            Ok(
                Register::Counter(pmc)
                | Register::FullWidthCounter(pmc)
                | Register::FixedCounter(pmc),
            ) => Some(pmc),
            _ => None,
        }
    }

    fn read(&self, msr: MsrIndex) -> Result<u64, MsrError> {
        Ok(match self.register(msr)? {
            Register::Counter(pmc)
            | Register::FullWidthCounter(pmc)
            | Register::FixedCounter(pmc) => self.values[pmc.slot()],
            Register::EventSel(pmc) => self.event_sel[pmc.slot()].into_bits(),
            Register::FixedCtrCtrl => self.fixed_ctrl,
            Register::PerfCapabilities => self.config.capabilities().into_bits(),
            Register::GlobalStatus => self.global_status.0,
            Register::GlobalCtrl => self.global_ctrl.0,
            Register::GlobalOvfCtrl => 0,
            Register::Absent => return Err(MsrError::InvalidAccess),
        })
    }

    fn write(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let counters = self.config.counters().0;
        match self.register(msr)? {
            Register::Counter(pmc) => {
                self.write_counter(pmc, sign_extended(value) & self.config.mask())?;
            }
            Register::FullWidthCounter(pmc) | Register::FixedCounter(pmc) => {
                self.write_counter(pmc, value)?;
            }
            Register::EventSel(pmc) => {
                let sel = within(value, !EventSel::RESERVED_V2)?;
                self.event_sel[pmc.slot()] = EventSel::from_bits(sel);
            }
            Register::FixedCtrCtrl => self.fixed_ctrl = within(value, self.fixed_ctrl_mask())?,
            Register::GlobalCtrl => self.global_ctrl = PmcSet(within(value, counters)?),
            Register::GlobalOvfCtrl => {
                let clear = within(value, counters | STATUS_DS_BUFFER | STATUS_COND_CHANGED)?;
                self.global_status.0 &= !clear;
            }
            Register::PerfCapabilities | Register::GlobalStatus | Register::Absent => {
                return Err(MsrError::InvalidAccess);
            }
        }
        Ok(())
    }

    fn rdpmc_counter(&self, ecx: u32) -> Option<Pmc> {
        const FIXED: u32 = 0x4000_0000;
        let pmc = match ecx.checked_sub(FIXED) {
            Some(i) => Pmc::fixed(u8::try_from(i).ok()?)?,
            None => Pmc::gp(u8::try_from(ecx).ok()?)?,
        };
        self.config.counters().contains(pmc).then_some(pmc)
    }

    fn value(&self, pmc: Pmc) -> u64 {
        self.values[pmc.slot()]
    }

    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        if !self.global_ctrl.contains(pmc) {
            return None;
        }
        let (privilege, encoding) = match pmc.fixed_number() {
            Some(i) => {
                let ctrl = self.fixed_ctrl_of(i);
                let privilege = Privilege {
                    user: ctrl.usr(),
                    kernel: ctrl.os(),
                };
                (privilege, Encoding::Architectural(ArchEvent::of_fixed(i)?))
            }
            None => {
                let sel = self.event_sel[pmc.slot()];
                if !sel.enable() {
                    return None;
                }
                let privilege = Privilege {
                    user: sel.usr(),
                    kernel: sel.os(),
                };
                let event = ArchEvent::from_event_sel(sel);
                (
                    privilege,
                    event.map_or(Encoding::Raw(sel), Encoding::Architectural),
                )
            }
        };
        if !privilege.user && !privilege.kernel {
            return None;
        }
        Some(match encoding {
            Encoding::Architectural(event) if self.config.events().contains(event) => {
                Demand::Event(EventAttr { event, privilege })
            }
            encoding => Demand::NotBacked(encoding),
        })
    }

    fn distance(&self, pmc: Pmc) -> Count {
        Count(self.config.mask() - self.value(pmc) + 1)
    }

    fn advance(&mut self, pmc: Pmc, events: Count) -> Wrap {
        let wrapped = events >= self.distance(pmc);
        let value = &mut self.values[pmc.slot()];
        *value = value.wrapping_add(events.0) & self.config.mask();
        if !wrapped {
            return Wrap::No;
        }
        self.global_status.insert(pmc);
        if self.asks_for_interrupt(pmc) {
            Wrap::Interrupt
        } else {
            Wrap::Silent
        }
    }

    fn interrupt_due(&self) -> bool {
        self.global_status
            .iter()
            .any(|pmc| self.asks_for_interrupt(pmc))
    }

    fn arms(&self, msr: MsrIndex, value: u64) -> bool {
        msr == msr::GLOBAL_CTRL && value != 0
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }
}
