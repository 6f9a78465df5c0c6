//! How the registers of an architectural PMU are read, written and restored.

use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::x86::msr::{Access, MsrError, Register};
use crate::x86::regs::{EventSel, INUSE_PMI};

use super::{ArchPerfmon, ArchPerfmonConfig, rows};

impl ArchPerfmon {
    pub(super) fn read_register(&self, register: Register) -> Result<u64, MsrError> {
        Ok(match register {
            Register::Counter(pmc)
            | Register::FullWidthCounter(pmc)
            | Register::FixedCounter(pmc) => self.values[pmc.slot()],
            Register::EventSel(pmc) => self.sel(pmc).into_bits(),
            Register::FixedCtrCtrl => self.fixed_ctrl,
            Register::PerfCapabilities => self.config.capabilities().into_bits(),
            Register::GlobalStatus | Register::GlobalStatusSet => self.global_status,
            Register::GlobalCtrl => self.global_ctrl,
            Register::GlobalOvfCtrl => 0,
            Register::GlobalInUse => self.in_use(),
            Register::PerfMetrics => self.metrics,
            Register::DebugCtl => self.debug_ctl,
            _ => return Err(MsrError::InvalidAccess),
        })
    }

    pub(super) fn write_register(
        &mut self,
        access: Access<Register>,
        value: u64,
    ) -> Result<(), MsrError> {
        let value = access.taken(value)?;
        match access.register() {
            Register::Counter(pmc) => {
                self.write_counter(pmc, sign_extended(value) & self.config.mask());
            }
            Register::FullWidthCounter(pmc) | Register::FixedCounter(pmc) => {
                self.write_counter(pmc, value);
            }
            Register::EventSel(pmc) => self.event_sel[pmc.slot()] = EventSel::from_bits(value),
            Register::FixedCtrCtrl => self.fixed_ctrl = value,
            Register::GlobalCtrl => self.global_ctrl = value,
            Register::GlobalOvfCtrl => self.global_status &= !value,
            Register::GlobalStatusSet => self.global_status |= value & self.config.status_mask(),
            Register::PerfMetrics => self.metrics = value,
            Register::DebugCtl => self.debug_ctl = value,
            _ => return Err(MsrError::InvalidAccess),
        }
        Ok(())
    }

    /// Gives each register its row's value after RESET.
    pub(super) fn load_reset_values(&mut self) {
        let config = self.config;
        for row in &rows::ROWS {
            let value = (row.reset)(&config);
            for register in row.saved_registers(&config, value) {
                self.set(register, value);
            }
        }
    }

    /// Gives a register that stores something a value that it can hold.
    pub(super) fn load_register(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let (row, number) = ArchPerfmonConfig::row(msr).ok_or(MsrError::Unknown)?;
        let register = row.restored(&self.config, number, value)?;
        self.set(register, value);
        Ok(())
    }

    /// Sets a register that a saved state lists; no other one stores a value of
    /// its own.
    fn set(&mut self, register: Register, value: u64) {
        match register {
            Register::Counter(pmc) | Register::FixedCounter(pmc) => self.values[pmc.slot()] = value,
            Register::GlobalStatus => self.global_status = value,
            Register::EventSel(pmc) => self.event_sel[pmc.slot()] = EventSel::from_bits(value),
            Register::FixedCtrCtrl => self.fixed_ctrl = value,
            Register::GlobalCtrl => self.global_ctrl = value,
            Register::PerfMetrics => self.metrics = value,
            Register::DebugCtl => self.debug_ctl = value,
            _ => {}
        }
    }

    fn write_counter(&mut self, pmc: Pmc, value: u64) {
        self.values[pmc.slot()] = value;
        if !self.config.has_globals() {
            self.global_status &= !PmcSet::from(pmc).0;
        }
    }

    /// Without a status register a wrap is told of until its counter is written, or
    /// until the first write after the write that stopped the counter.
    pub(super) fn forget_stopped(&mut self) {
        if self.config.has_globals() {
            return;
        }
        for pmc in PmcSet(self.global_status).iter() {
            if !self.sel(pmc).enable() {
                self.global_status &= !PmcSet::from(pmc).0;
            }
        }
    }

    /// IA32_PERF_GLOBAL_INUSE (SDM vol. 3B, "Architectural Performance
    /// Monitoring Version 4"): event selects that are not 0, fixed counters
    /// whose mode is not 0, and whether any of them asks for interrupts.
    fn in_use(&self) -> u64 {
        let is_used = |pmc: &Pmc| match pmc.fixed_number() {
            Some(i) => {
                let ctrl = self.fixed_ctrl_of(i);
                ctrl.os() || ctrl.usr()
            }
            None => self.sel(*pmc).event() != 0,
        };
        let counters = self.config.counters();
        let used = counters.iter().filter(is_used);
        let used = used.fold(0, |bits, pmc| bits | PmcSet::from(pmc).0);
        let asks = counters.iter().any(|pmc| self.asks_for_interrupt(pmc));
        used | if asks { INUSE_PMI } else { 0 }
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
