//! A write of a register: what has to be known before it is done.

use std::sync::Once;

use vpmu::guest::{Access, Effect, GuestPmu, MsrError};
use vpmu::uncore::UncoreRegister;
use vpmu::units::Nanos;
use vpmu::x86::msr::Register;

use super::PmuPort;
use crate::kvm::Vcpu;
use crate::pmu::rdpmc::{ReaderService, TextPlace, TextVerdict};
use crate::pmu::uncore::needs_rdpmc;
use crate::rate_limit::RateLimit;

/// Why a write is not done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unwritten {
    /// It faults.
    Refused(MsrError),
    /// Whether the counter can be read is not known yet.
    Later(Nanos),
}

impl From<MsrError> for Unwritten {
    fn from(error: MsrError) -> Self {
        Self::Refused(error)
    }
}

impl PmuPort {
    /// A write of a register of the core's PMU. A counter that the guest could not
    /// read is not started.
    pub(super) fn write_core(
        &mut self,
        vcpu: &mut Vcpu,
        access: Access<Register>,
        value: u64,
    ) -> Result<(), Unwritten> {
        let effect = access.effect(value);
        // Of a write that waits for an answer, this is done.
        if effect == Effect::SetsCounter && !self.sites.is_waiting() {
            self.counter_is_written(vcpu, access, value);
        }
        if effect != Effect::Other {
            self.is_served(vcpu)?;
        }
        if effect == Effect::Enables {
            // The global control is set at boot, with no counter behind it.
            if matches!(
                access.register(),
                Register::EventSel(_) | Register::FixedCtrCtrl
            ) {
                self.totals.counter_started();
            }
            self.take_pce(vcpu);
        }
        Ok(self.pmu.write(access, value)?)
    }

    /// A write of a register of an uncore PMU. A counter that the guest could not
    /// read is not started.
    pub(super) fn write_uncore(
        &mut self,
        vcpu: &mut Vcpu,
        access: Access<UncoreRegister>,
        value: u64,
    ) -> Result<(), Unwritten> {
        if needs_rdpmc(access, value) {
            self.is_served(vcpu)?;
        }
        let uncore = self.uncore.as_ref().ok_or(MsrError::Unknown)?;
        Ok(uncore.write(access, value)?)
    }

    /// Whether the guest's counter reads reach us. Asked where a guest driver
    /// tests a counter and where it starts one.
    fn is_served(&mut self, vcpu: &mut Vcpu) -> Result<(), Unwritten> {
        let verdict = if self.lost_reads.are_lost() {
            TextVerdict::Known(ReaderService::Unserved)
        } else if let Some(verdict) = self.sites.go_on() {
            verdict
        } else {
            self.verdict(vcpu)
        };
        match verdict {
            TextVerdict::Known(ReaderService::Served) => Ok(()),
            TextVerdict::Known(ReaderService::Unserved) => {
                Err(Unwritten::Refused(MsrError::InvalidAccess))
            }
            TextVerdict::Later(wait) => Err(Unwritten::Later(wait)),
        }
    }

    /// Whether the reads of the text that the guest executes are served.
    fn verdict(&mut self, vcpu: &mut Vcpu) -> TextVerdict {
        let rip = vcpu.instruction_pointer();
        if let Some(verdict) = self.sites.verdict(rip) {
            return TextVerdict::Known(verdict);
        }
        let controls = vcpu.controls();
        // A scan knows 64-bit code alone.
        match controls.filter(|it| it.paging.is_long() || self.sites.rdpmc_faults()) {
            Some(controls) => self.sites.cover(TextPlace {
                paging: controls.paging,
                rip,
                idt: controls.idt,
            }),
            None if vcpu.is_outside_long_mode() => TextVerdict::Known(self.outside_long_mode()),
            None => TextVerdict::Known(ReaderService::Unserved),
        }
    }

    /// What the scan looks for is 64-bit code, and a doorbell hears of RDPMC only where that
    /// faults, from a kernel whose segments begin at 0. Other guests have RDMSR as well.
    fn outside_long_mode(&self) -> ReaderService {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            log::warn!(
                "pmu: vCPU {}: the guest uses counters outside 64-bit mode, where RDPMC is not \
                 rewritten: RDPMC faults or reads 0, depending on the host; only RDMSR reads counters",
                self.vcpu
            );
        });
        ReaderService::Served
    }

    /// Whether a write is a driver's test of a counter, which Linux makes when it
    /// comes up (guest-contract §1.2). A write that only looks like a test costs a
    /// scan.
    fn is_counter_test(&self, access: Access<Register>, value: u64) -> bool {
        let counter = access.counter();
        counter.is_some_and(|pmc| self.pmu.model().value(pmc) ^ 0xffff == value)
    }

    /// A write that sets a counter: a driver's test of it has the text looked at,
    /// and too many without a read show that reads do not come (G-504).
    fn counter_is_written(&mut self, vcpu: &mut Vcpu, access: Access<Register>, value: u64) {
        static LIMIT: RateLimit = RateLimit::new();
        if self.is_counter_test(access, value) {
            self.sites.driver_comes_up(vcpu);
            self.lost_reads.forgive();
        }
        if self.lost_reads.written() && LIMIT.allow().is_some() {
            log::error!(
                "pmu: vCPU {}: the guest keeps writing its counters, but its \
                 reads do not reach us; no counter starts until a read arrives or a driver comes up",
                self.vcpu
            );
        }
    }
}
