//! The uncore PMUs of one VM: registers and events.

use alloc::vec::Vec;

use super::bank::{Bank, Slot};
use super::events::Events;
use super::history::{Log, LogEntry};
use super::model::{UncoreModel, UncorePmu};
use super::registers::{UncoreCounter, UncoreRegister};
use crate::host::{EnergyDomain, UncoreEvent, UncoreEventId, UncoreHost};
use crate::ids::{MsrIndex, VcpuId};
use crate::sched::{RegisterError, ScopeTopology};
use crate::units::{Count, Nanos};
use crate::x86::msr::{Access, MsrError};

/// Where a counter is: PMU, place of its slot, and the vCPU that asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) bank: usize,
    pub(super) slot: u16,
    pub(super) vcpu: VcpuId,
}

/// The uncore PMUs of one VM.
///
/// State belongs to the instance and not to the vCPU that wrote it (G-602):
/// whichever vCPU of the scope reads or writes reaches the same counter. Times
/// are those of a clock of the caller.
///
/// # Examples
/// ```
/// use vpmu::host::sim_uncore::SimUncore;
/// use vpmu::host::ScopeInstance;
/// use vpmu::ids::{MsrIndex, VcpuId};
/// use vpmu::sched::ScopeTopology;
/// use vpmu::uncore::{Uncore, UncoreModel, UncorePmu};
/// use vpmu::units::Nanos;
///
/// let model = UncoreModel::default().with_l3();
/// let mut uncore = Uncore::new(model, ScopeTopology::flat(2), 2, |_| SimUncore::default())?;
/// let (now, first, second) = (Nanos(0), VcpuId(0), VcpuId(1));
/// uncore.wrmsr(now, first, MsrIndex(0xc001_0230), 1 << 22 | 0x0104)?; // select 0, enabled
/// let host = uncore.host_mut(UncorePmu::L3).unwrap();
/// host.occur(ScopeInstance(0), 7);
/// // Any vCPU of the die reads the same counter.
/// assert_eq!(uncore.rdmsr(now, second, MsrIndex(0xc001_0231))?, 7);
///
/// // The vCPU that counts for the die leaves: the counter goes on, with its count.
/// uncore.departed(now, first);
/// uncore.host_mut(UncorePmu::L3).unwrap().occur(ScopeInstance(0), 1);
/// assert_eq!(uncore.rdmsr(now, second, MsrIndex(0xc001_0231))?, 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Uncore<H> {
    pub(super) model: UncoreModel,
    pub(super) topology: ScopeTopology,
    pub(super) events: Events<H>,
    pub(super) banks: Vec<Bank>,
    pub(super) log: Log,
}

impl<H: UncoreHost> Uncore<H> {
    /// The PMUs of `model`, after RESET, on a VM whose first `boot` vCPUs are
    /// plugged in. `host` gives what backs each PMU.
    ///
    /// # Errors
    /// [`RegisterError`] if there are more counters than can be named.
    pub fn new(
        model: UncoreModel,
        topology: ScopeTopology,
        boot: u16,
        host: impl FnMut(UncorePmu) -> H,
    ) -> Result<Self, RegisterError> {
        let fits = |pmu| Bank::places(pmu, model.instances(pmu, &topology)).is_some();
        if !model.pmus().all(fits) {
            return Err(RegisterError::TooMany);
        }
        let mut events = Events::new(&model, topology, host)?;
        let absent = topology.vcpus().skip(boot.into());
        for vcpu in absent {
            events.set_present(Nanos(0), vcpu, false);
        }
        let bank = |pmu| Bank::new(pmu, model.instances(pmu, &topology));
        let mut uncore = Self {
            model,
            topology,
            events,
            banks: model.pmus().map(bank).collect(),
            log: Log::default(),
        };
        for bank in 0..uncore.banks.len() {
            uncore.banks[bank].designated = uncore.designated(bank);
        }
        Ok(uncore)
    }

    /// What the guest is shown.
    #[must_use]
    pub const fn model(&self) -> &UncoreModel {
        &self.model
    }

    /// What happened to designated vCPUs and events, oldest first.
    pub fn log(&self) -> impl Iterator<Item = &LogEntry> {
        self.log.entries()
    }

    /// What backs `pmu`.
    pub fn host_mut(&mut self, pmu: UncorePmu) -> Option<&mut H> {
        let bank = self.banks.iter().position(|bank| bank.pmu == pmu)?;
        Some(self.events.driver_mut(bank)?.host_mut())
    }

    /// RDMSR by `vcpu` of a register that [`UncoreModel::decode`] found.
    ///
    /// # Errors
    /// [`MsrError`]: #GP.
    pub fn read(
        &mut self,
        now: Nanos,
        vcpu: VcpuId,
        access: Access<UncoreRegister>,
    ) -> Result<u64, MsrError> {
        match access.register() {
            UncoreRegister::PowerUnit(form) => Ok(form.unit()),
            UncoreRegister::Energy(domain) => self.energy(now, vcpu, domain),
            UncoreRegister::Select(counter) => {
                let place = self.place(counter, vcpu)?;
                Ok(self.slot(place).select)
            }
            UncoreRegister::Counter(counter) => {
                let place = self.place(counter, vcpu)?;
                self.fold(now, place.bank, place.slot);
                Ok(self.slot(place).value)
            }
        }
    }

    /// WRMSR by `vcpu` of a register that [`UncoreModel::decode`] found. Bits that a
    /// select or a counter does not keep are dropped, as on AMD's CPUs
    /// (guest-contract §8); RAPL's registers are read-only.
    ///
    /// # Errors
    /// [`MsrError`]: #GP, and nothing has changed.
    pub fn write(
        &mut self,
        now: Nanos,
        vcpu: VcpuId,
        access: Access<UncoreRegister>,
        value: u64,
    ) -> Result<(), MsrError> {
        let value = access.taken(value)?;
        match access.register() {
            UncoreRegister::PowerUnit(_) | UncoreRegister::Energy(_) => {
                return Err(MsrError::InvalidAccess);
            }
            UncoreRegister::Select(counter) => {
                let place = self.place(counter, vcpu)?;
                self.select(now, place, value);
            }
            UncoreRegister::Counter(counter) => {
                let place = self.place(counter, vcpu)?;
                self.fold(now, place.bank, place.slot);
                self.slot_mut(place).value = value;
            }
        }
        Ok(())
    }

    /// RDMSR by index.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if no PMU here has the register; else as
    /// [`Uncore::read`].
    pub fn rdmsr(&mut self, now: Nanos, vcpu: VcpuId, msr: MsrIndex) -> Result<u64, MsrError> {
        let access = self.model.decode(msr)?;
        self.read(now, vcpu, access)
    }

    /// WRMSR by index.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if no PMU here has the register; else as
    /// [`Uncore::write`].
    pub fn wrmsr(
        &mut self,
        now: Nanos,
        vcpu: VcpuId,
        msr: MsrIndex,
        value: u64,
    ) -> Result<(), MsrError> {
        let access = self.model.decode(msr)?;
        self.write(now, vcpu, access, value)
    }

    /// RDPMC by `vcpu`; `None` is #GP(0).
    pub fn rdpmc(&mut self, now: Nanos, vcpu: VcpuId, ecx: u32) -> Option<u64> {
        let counter = self.model.rdpmc_counter(ecx)?;
        let place = self.place(counter, vcpu).ok()?;
        self.fold(now, place.bank, place.slot);
        Some(self.slot(place).value)
    }

    fn place(&self, counter: UncoreCounter, vcpu: VcpuId) -> Result<Place, MsrError> {
        let UncoreCounter { pmu, number } = counter;
        let bank = self.banks.iter().position(|bank| bank.pmu == pmu);
        let bank = bank.ok_or(MsrError::Unknown)?;
        if vcpu.0 >= self.topology.count() {
            return Err(MsrError::Unknown);
        }
        let instance = self.model.instance(pmu, &self.topology, vcpu);
        let slot = self.banks[bank].of(instance).start + u16::from(number);
        Ok(Place { bank, slot, vcpu })
    }

    pub(super) fn slot(&self, place: Place) -> &Slot {
        &self.banks[place.bank].slots[usize::from(place.slot)]
    }

    fn slot_mut(&mut self, place: Place) -> &mut Slot {
        &mut self.banks[place.bank].slots[usize::from(place.slot)]
    }

    /// Takes in what was counted.
    pub(super) fn fold(&mut self, now: Nanos, bank: usize, slot: u16) {
        let Self { events, banks, .. } = self;
        let pmu = banks[bank].pmu;
        let slot = &mut banks[bank].slots[usize::from(slot)];
        let Count(progress) = events.progress(now, bank, &mut slot.meter);
        slot.value = pmu.after(slot.value, Count(progress));
        slot.counted = slot.counted.wrapping_add(progress);
    }

    /// A write of a select. The event goes on if it is the same one.
    fn select(&mut self, now: Nanos, place: Place, select: u64) {
        self.fold(now, place.bank, place.slot);
        let event = self.banks[place.bank].pmu.event(select);
        let slot = self.slot_mut(place);
        slot.select = select;
        if slot.wanted == event && slot.meter.is_open() {
            return;
        }
        slot.wanted = event;
        slot.meter.trouble = None;
        self.reopen(now, place);
    }

    /// Has the slot's event be the one that is wanted.
    pub(super) fn reopen(&mut self, now: Nanos, place: Place) {
        let Self { events, banks, .. } = self;
        let slot = &mut banks[place.bank].slots[usize::from(place.slot)];
        events.close(now, &mut slot.meter);
        if let Some(event) = slot.wanted {
            let what = (UncoreEventId(place.slot), event, place.vcpu);
            events.open(now, place.bank, what, &mut slot.meter);
        }
    }

    /// An energy counter. Its host event is opened by the first read, and again
    /// by the next one if the host ended it.
    fn energy(&mut self, now: Nanos, vcpu: VcpuId, domain: EnergyDomain) -> Result<u64, MsrError> {
        let power = self.model.power().ok_or(MsrError::Unknown)?;
        let counter = UncoreCounter {
            pmu: UncorePmu::Power,
            number: domain as u8,
        };
        let place = self.place(counter, vcpu)?;
        self.fold(now, place.bank, place.slot);
        if !self.slot(place).meter.is_open() {
            let wanted = self.slot(place).wanted;
            self.slot_mut(place).wanted = Some(UncoreEvent::Energy(domain));
            self.reopen(now, place);
            if wanted.is_none() && !self.slot(place).meter.is_open() {
                // Never backed: the guest's driver hides the domain.
                self.slot_mut(place).wanted = None;
                return Err(MsrError::InvalidAccess);
            }
        }
        Ok(power.form().register(self.slot(place).value))
    }
}
