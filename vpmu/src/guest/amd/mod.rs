//! AMD's core performance counters, in three generations.
//!
//! APM vol. 2, "Performance Monitoring Counters"; guest-contract §3 and §8.
//! Where Intel's registers refuse a reserved bit, these drop it (rule G-301).

mod config;
pub(super) mod rows;
#[cfg(test)]
mod tests;

pub use config::{AmdConfig, AmdVersion};

use crate::host::{HostEvent, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::{PmuCpuid, Vendor};
use crate::x86::event::ArchEvent;
use crate::x86::msr::{Access, MsrError, Register};
use crate::x86::regs::AmdEventSel;

use super::{Demand, Encoding, GuestPmu, Identity, Wrap};

/// Counters of 48 bits, on every generation.
const COUNTER_BITS: u8 = 48;
/// The bits of a counter.
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

/// The register file of one vCPU.
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdPmu, AmdVersion, GuestPmu};
/// use vpmu::ids::MsrIndex;
/// use vpmu::x86::event::ArchEventSet;
///
/// let mut pmu = AmdPmu::new(AmdConfig::new(AmdVersion::Core, ArchEventSet::ALL));
/// // Reserved bits are dropped and never #GP.
/// pmu.wrmsr(MsrIndex(0xc001_0200), u64::MAX).unwrap();
/// assert_eq!(pmu.rdmsr(MsrIndex(0xc001_0200)).unwrap() >> 63, 0);
/// ```
#[derive(Clone, Debug)]
pub struct AmdPmu {
    config: AmdConfig,
    event_sel: [AmdEventSel; Pmc::MAX_GP as usize],
    values: [u64; Pmc::MAX_GP as usize],
    /// PerfCntrGlobalCtl; all counters where there is none.
    enabled: PmcSet,
    /// PerfCntrGlobalStatus; where there is none, wraps that a PMI tells of.
    overflowed: PmcSet,
}

impl AmdPmu {
    /// A PMU after RESET.
    #[must_use]
    pub fn new(config: AmdConfig) -> Self {
        let mut pmu = Self {
            config,
            event_sel: [AmdEventSel::new(); Pmc::MAX_GP as usize],
            values: [0; Pmc::MAX_GP as usize],
            enabled: config.counters(),
            overflowed: PmcSet::EMPTY,
        };
        for row in &rows::ROWS {
            let value = (row.reset)(&config);
            for register in row.saved_registers(&config, value) {
                pmu.set(register, value);
            }
        }
        pmu
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &AmdConfig {
        &self.config
    }

    const fn has_globals(&self) -> bool {
        self.config.has_globals()
    }

    fn sel(&self, pmc: Pmc) -> AmdEventSel {
        self.event_sel.get(pmc.slot()).copied().unwrap_or_default()
    }

    /// Without a status register a wrap is told of until its counter is written, or
    /// until the first write after the write that stopped the counter.
    fn forget_stopped(&mut self) {
        if self.has_globals() {
            return;
        }
        for pmc in self.overflowed.iter() {
            if !self.sel(pmc).enable() {
                self.overflowed.remove(pmc);
            }
        }
    }

    /// Sets a register that a saved state lists; no other one stores a value of
    /// its own.
    fn set(&mut self, register: Register, value: u64) {
        match register {
            Register::AmdEventSel(pmc) => {
                if let Some(sel) = self.event_sel.get_mut(pmc.slot()) {
                    *sel = AmdEventSel::from_bits(value);
                }
            }
            Register::AmdCounter(pmc) => {
                if let Some(counter) = self.values.get_mut(pmc.slot()) {
                    *counter = value;
                }
            }
            Register::AmdGlobalCtl => self.enabled = PmcSet(value),
            Register::AmdGlobalStatus => self.overflowed = PmcSet(value),
            _ => {}
        }
    }

    fn write_counter(&mut self, pmc: Pmc, value: u64) {
        self.set(Register::AmdCounter(pmc), value);
        if !self.has_globals() {
            self.overflowed.remove(pmc);
        }
    }
}

impl GuestPmu for AmdPmu {
    fn cpuid(&self) -> PmuCpuid {
        self.config.cpuid()
    }

    fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        self.config.decode(msr)
    }

    fn counters(&self) -> PmcSet {
        self.config.counters()
    }

    fn read(&self, access: Access<Register>) -> Result<u64, MsrError> {
        Ok(match access.register() {
            Register::AmdEventSel(pmc) => self.sel(pmc).into_bits(),
            Register::AmdCounter(pmc) => self.value(pmc),
            Register::AmdGlobalStatus => self.overflowed.0,
            Register::AmdGlobalCtl => self.enabled.0,
            Register::AmdGlobalStatusClr | Register::AmdGlobalStatusSet => 0,
            _ => return Err(MsrError::InvalidAccess),
        })
    }

    fn write(&mut self, access: Access<Register>, value: u64) -> Result<(), MsrError> {
        self.forget_stopped();
        let value = access.taken(value)?;
        match access.register() {
            register @ (Register::AmdEventSel(_) | Register::AmdGlobalCtl) => {
                self.set(register, value);
            }
            Register::AmdCounter(pmc) => self.write_counter(pmc, value),
            Register::AmdGlobalStatusClr => self.overflowed.0 &= !value,
            Register::AmdGlobalStatusSet => self.overflowed.0 |= value,
            // Writes are ignored.
            Register::AmdGlobalStatus => {}
            _ => return Err(MsrError::InvalidAccess),
        }
        Ok(())
    }

    fn rdpmc_counter(&self, ecx: u32) -> Option<Pmc> {
        let pmc = u8::try_from(ecx).ok().and_then(Pmc::gp)?;
        self.config.counters().contains(pmc).then_some(pmc)
    }

    fn value(&self, pmc: Pmc) -> u64 {
        self.values.get(pmc.slot()).copied().unwrap_or(0)
    }

    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        /// The odd half of a merged pair, which counts nothing by itself.
        const MERGE: u16 = 0xfff;
        let sel = self.sel(pmc);
        if !self.enabled.contains(pmc) || !sel.enable() || sel.event() == MERGE {
            return None;
        }
        // The guest has no SVM, so EFER.SVME is clear, and neither side of a
        // host and its guests exists to be counted.
        if sel.guest_only() || sel.host_only() {
            return None;
        }
        let privilege = Privilege {
            user: sel.usr(),
            kernel: sel.os(),
        };
        if !privilege.user && !privilege.kernel {
            return None;
        }
        Some(match ArchEvent::from_amd_event_sel(sel) {
            Some(event) if self.config.events().contains(event) => Demand::Event(HostEvent {
                code: event.into(),
                privilege,
            }),
            Some(event) => Demand::NotBacked(Encoding::Architectural(event)),
            None => Demand::NotBacked(Encoding::AmdRaw(sel)),
        })
    }

    fn distance(&self, pmc: Pmc) -> Count {
        Count(COUNTER_MASK - self.value(pmc) + 1)
    }

    fn advance(&mut self, pmc: Pmc, events: Count) -> Wrap {
        let wrapped = events >= self.distance(pmc);
        if let Some(value) = self.values.get_mut(pmc.slot()) {
            *value = value.wrapping_add(events.0) & COUNTER_MASK;
        }
        if !wrapped {
            return Wrap::No;
        }
        let asks = self.sel(pmc).int();
        if asks || self.has_globals() {
            self.overflowed.insert(pmc);
        }
        if asks { Wrap::Interrupt } else { Wrap::Silent }
    }

    fn interrupt_due(&self) -> bool {
        self.overflowed.iter().any(|pmc| self.sel(pmc).int())
    }

    fn interrupt_postponed(&mut self) {
        self.forget_stopped();
    }

    fn interrupt_told(&mut self) {
        if !self.has_globals() {
            self.overflowed = PmcSet::EMPTY;
        }
    }

    fn masks_pmi(&self) -> bool {
        false
    }

    fn identity(&self) -> Identity {
        Identity {
            vendor: Vendor::Amd,
            version: match self.config.version() {
                AmdVersion::K7 => 1,
                AmdVersion::Core => 2,
                AmdVersion::V2 => 3,
            },
            width: COUNTER_BITS,
            metrics: false,
            events: self.config.events(),
            counters: self.config.counters(),
            shown: self.config.counters(),
        }
    }

    fn load(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let (row, number) = AmdConfig::row(msr).ok_or(MsrError::Unknown)?;
        let register = row.restored(&self.config, number, value)?;
        self.set(register, value);
        Ok(())
    }

    fn told(&self) -> PmcSet {
        if self.has_globals() {
            PmcSet::EMPTY
        } else {
            self.overflowed
        }
    }

    fn load_told(&mut self, told: PmcSet) -> Result<(), MsrError> {
        if told.is_empty() {
            return Ok(());
        }
        if self.has_globals() || told.0 & !self.config.counters().0 != 0 {
            return Err(MsrError::InvalidAccess);
        }
        self.overflowed = told;
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }
}
