//! AMD's core performance counters, in three generations.
//!
//! APM vol. 2, "Performance Monitoring Counters"; guest-contract §3 and §8.
//! Where Intel's registers refuse a reserved bit, these drop it (rule G-301).

mod config;
#[cfg(test)]
mod tests;

pub use config::{AmdConfig, AmdVersion};

use crate::host::{HostEvent, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::{PmuCpuid, Vendor};
use crate::x86::event::ArchEvent;
use crate::x86::msr::{self, AmdBank, Register};
use crate::x86::regs::AmdEventSel;

use super::{Arming, Demand, Effect, Encoding, GuestPmu, Identity, MsrError, Wrap};

/// Counters of 48 bits, on every generation.
const COUNTER_BITS: u8 = 48;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

/// The register file of one vCPU.
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
    /// A PMU after RESET. PerfCntrGlobalCtl has all counters then, as KVM does
    /// it; guest-contract §10 has found nothing about real CPUs.
    #[must_use]
    pub const fn new(config: AmdConfig) -> Self {
        Self {
            config,
            event_sel: [AmdEventSel::new(); Pmc::MAX_GP as usize],
            values: [0; Pmc::MAX_GP as usize],
            enabled: config.counters(),
            overflowed: PmcSet::EMPTY,
        }
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &AmdConfig {
        &self.config
    }

    const fn has_globals(&self) -> bool {
        matches!(self.config.version(), AmdVersion::V2)
    }

    /// The register at `msr`, if this generation has it.
    fn register(&self, msr: MsrIndex) -> Result<Register, MsrError> {
        let register = msr::decode(msr).ok_or(MsrError::Unknown)?;
        let is_there = match register {
            Register::AmdEventSel(AmdBank::Legacy, _)
            | Register::AmdCounter(AmdBank::Legacy, _) => true,
            Register::AmdEventSel(AmdBank::Core, pmc)
            | Register::AmdCounter(AmdBank::Core, pmc) => {
                self.config.version() != AmdVersion::K7 && self.config.counters().contains(pmc)
            }
            Register::AmdGlobalStatus
            | Register::AmdGlobalCtl
            | Register::AmdGlobalStatusClr
            | Register::AmdGlobalStatusSet => self.has_globals(),
            // KVM's, on these guests.
            Register::DebugCtl => return Err(MsrError::Unknown),
            _ => false,
        };
        if is_there {
            Ok(register)
        } else {
            Err(MsrError::InvalidAccess)
        }
    }

    fn sel(&self, pmc: Pmc) -> AmdEventSel {
        self.event_sel.get(pmc.slot()).copied().unwrap_or_default()
    }

    /// Without a status register a wrap stays told of until its counter is
    /// written, or until the first write after the one that stopped it.
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

    fn write_counter(&mut self, pmc: Pmc, value: u64) {
        if let Some(counter) = self.values.get_mut(pmc.slot()) {
            *counter = value & COUNTER_MASK;
        }
        if !self.has_globals() {
            self.overflowed.remove(pmc);
        }
    }
}

impl GuestPmu for AmdPmu {
    fn cpuid(&self) -> PmuCpuid {
        self.config.cpuid()
    }

    fn has(&self, msr: MsrIndex) -> bool {
        self.register(msr).is_ok()
    }

    fn effect(&self, msr: MsrIndex, value: u64) -> Effect {
        match self.register(msr) {
            Ok(Register::AmdCounter(..)) => Effect::SetsCounter,
            Ok(Register::AmdEventSel(..)) if AmdEventSel::from_bits(value).enable() => {
                Effect::Enables
            }
            Ok(Register::AmdGlobalCtl) if value & self.config.counters().0 != 0 => Effect::Enables,
            _ => Effect::Other,
        }
    }

    fn counters(&self) -> PmcSet {
        self.config.counters()
    }

    fn touched_by(&self, msr: MsrIndex) -> PmcSet {
        match self.register(msr) {
            Ok(Register::AmdCounter(_, pmc) | Register::AmdEventSel(_, pmc)) => pmc.into(),
            // The status must show every wrap that has happened (G-404).
            Ok(_) => self.config.counters(),
            Err(_) => PmcSet::EMPTY,
        }
    }

    fn counter_at(&self, msr: MsrIndex) -> Option<Pmc> {
        match self.register(msr) {
            Ok(Register::AmdCounter(_, pmc)) => Some(pmc),
            _ => None,
        }
    }

    fn read(&self, msr: MsrIndex) -> Result<u64, MsrError> {
        Ok(match self.register(msr)? {
            Register::AmdEventSel(_, pmc) => self.sel(pmc).into_bits(),
            Register::AmdCounter(_, pmc) => self.value(pmc),
            Register::AmdGlobalStatus => self.overflowed.0,
            Register::AmdGlobalCtl => self.enabled.0,
            // StatusClr and StatusSet.
            _ => 0,
        })
    }

    fn write(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let register = self.register(msr)?;
        self.forget_stopped();
        let counters = value & self.config.counters().0;
        match register {
            Register::AmdEventSel(_, pmc) => {
                if let Some(sel) = self.event_sel.get_mut(pmc.slot()) {
                    *sel = AmdEventSel::from_bits(value & AmdEventSel::STORED);
                }
            }
            Register::AmdCounter(_, pmc) => self.write_counter(pmc, value),
            Register::AmdGlobalCtl => self.enabled = PmcSet(counters),
            Register::AmdGlobalStatusClr => self.overflowed.0 &= !counters,
            Register::AmdGlobalStatusSet => self.overflowed.0 |= counters,
            // PerfCntrGlobalStatus: writes are ignored.
            _ => {}
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

    fn arms(&self, _: MsrIndex, _: u64) -> Arming {
        Arming::No
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
        let counters = self.config.counters();
        let register = self.register(msr)?;
        if let Register::AmdEventSel(_, pmc) = register
            && let Some(sel) = self.event_sel.get_mut(pmc.slot())
            && value & !AmdEventSel::STORED == 0
        {
            *sel = AmdEventSel::from_bits(value);
            return Ok(());
        }
        let (held, mask) = match register {
            Register::AmdCounter(_, pmc) => (self.values.get_mut(pmc.slot()), COUNTER_MASK),
            Register::AmdGlobalCtl => (Some(&mut self.enabled.0), counters.0),
            Register::AmdGlobalStatus => (Some(&mut self.overflowed.0), counters.0),
            _ => (None, 0),
        };
        match held {
            Some(held) if value & !mask == 0 => *held = value,
            _ => return Err(MsrError::InvalidAccess),
        }
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
