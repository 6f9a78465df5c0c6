//! `--uncore` → the host's PMUs behind the guest's uncore PMUs.
//!
//! ```text
//!  --uncore ─┐
//!  model ────┼─▶ find ─▶ UncoreHosts ─▶ UncoreModel, for CPUID and the registers
//!  sysfs ────┘                └▶ host: a driver for each of the guest's PMUs
//!                                 ├ Shown::Raw: instance by instance
//!                                 └ Shown::ByCpuTime ◀─ cpu_time
//! ```

mod cpu_time;
mod error;
mod host_busy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use vpmu::guest::{AmdVersion, ModelKind};
use vpmu::host::linux::sysfs::{CpuSet, Sysfs};
use vpmu::host::linux::uncore::{LinuxUncore, Shown, UncorePlace, UncoreSource, UncoreSourceError};
use vpmu::host::{
    EnergyDomain, HostOpenError, RawSelect, ReadError, ScopeInstance, UncoreCount, UncoreEvent,
    UncoreEventId, UncoreHost,
};
use vpmu::ids::{HostCpu, VcpuId};
use vpmu::uncore::{Power, PowerForm, UncoreModel, UncorePmu};
use vpmu::x86::cpuid::Vendor;

use super::uncore::{BoxedHost, UncorePlan};
use crate::config::{CpusConfig, Share, UncoreArg};

pub use cpu_time::VcpuTimes;
pub use error::UncoreError;

/// The host's PMUs behind those that a guest is to have.
#[derive(Clone, Debug)]
pub struct UncoreHosts {
    model: UncoreModel,
    places: Vec<(UncorePmu, Vec<UncorePlace>)>,
    share: Share,
    cpus: CpusConfig,
    times: Arc<VcpuTimes>,
}

impl UncoreHosts {
    /// Finds what was asked for, for a guest whose PMU is `guest`; `None` if
    /// nothing was.
    ///
    /// # Errors
    /// [`UncoreError`] for the first PMU that cannot be had; nothing is open then.
    pub fn find(
        asked: UncoreArg,
        guest: ModelKind,
        cpus: &CpusConfig,
        sysfs: &Sysfs,
    ) -> Result<Option<Self>, UncoreError> {
        if asked.is_empty() {
            return Ok(None);
        }
        fits_model(asked, guest)?;
        let mut found = Self {
            model: UncoreModel::default(),
            places: Vec::new(),
            share: asked.share,
            cpus: cpus.clone(),
            times: Arc::new(VcpuTimes::new(cpus.max)),
        };
        if asked.power {
            found.add_power(guest, sysfs)?;
        }
        if asked.amd_l3 {
            found.add(UncorePmu::L3, sysfs)?;
            found.model = found.model.with_l3();
        }
        if asked.amd_df {
            found.add(UncorePmu::DataFabric, sysfs)?;
            found.model = found.model.with_df();
        }
        if asked.amd_umc {
            found.add_umc(sysfs)?;
        }
        Ok(Some(found))
    }

    fn add(&mut self, pmu: UncorePmu, sysfs: &Sysfs) -> Result<(), UncoreError> {
        let source = find_one(pmu, sysfs)?;
        self.places.push((pmu, source.places().collect()));
        Ok(())
    }

    fn add_power(&mut self, guest: ModelKind, sysfs: &Sysfs) -> Result<(), UncoreError> {
        let source = find_one(UncorePmu::Power, sysfs)?;
        let form = match guest.vendor() {
            Vendor::Intel => PowerForm::Intel,
            Vendor::Amd => PowerForm::Amd,
        };
        let power = source.energy_domains().fold(Power::new(form), Power::with);
        self.model = self.model.with_power(power);
        self.places
            .push((UncorePmu::Power, source.places().collect()));
        Ok(())
    }

    /// As many memory controllers as each of the host's nodes has, and as leaf
    /// 8000_0022H can tell of.
    fn add_umc(&mut self, sysfs: &Sysfs) -> Result<(), UncoreError> {
        let units = umc_units(all_umc(sysfs)?);
        let count = u8::try_from(units.len()).unwrap_or(u8::MAX);
        // From 1 to the most, as `umc_units` says.
        self.model = self.model.with_umc(count).unwrap_or(self.model);
        let units = (0..).map(UncorePmu::Umc).zip(units);
        self.places.extend(units);
        Ok(())
    }

    /// What the guest is shown, and by whom.
    #[must_use]
    pub fn plan(self) -> UncorePlan {
        UncorePlan {
            model: self.model,
            times: Arc::clone(&self.times),
            hosts: Box::new(move |pmu| self.host(pmu)),
        }
    }

    /// The driver behind one of the guest's PMUs.
    fn host(&self, pmu: UncorePmu) -> BoxedHost {
        let Some((_, places)) = self.places.iter().find(|(known, _)| *known == pmu) else {
            return Box::new(NoHost);
        };
        let members = self.members(pmu);
        if pmu == UncorePmu::Power && self.share == Share::CpuTime {
            let shown = Shown::ByCpuTime(Box::new(self.times.of(members)));
            let driver = LinuxUncore::new(places.clone(), shown);
            return Box::new(driver.for_readers(self.readers(pmu)));
        }
        let of_instance = |(n, vcpus): (usize, &Vec<VcpuId>)| self.behind(places, n, vcpus);
        let places = members.iter().enumerate().filter_map(of_instance);
        let driver = LinuxUncore::new(places.collect(), Shown::Raw);
        Box::new(driver.for_readers(self.readers(pmu)))
    }

    /// How many in the guest read one instance's energy and add it up: Linux has
    /// a reader in each die of an Intel guest, of what is the package's.
    fn readers(&self, pmu: UncorePmu) -> u16 {
        let is_intels = |power: Power| power.form() == PowerForm::Intel;
        if pmu == UncorePmu::Power && self.model.power().is_some_and(is_intels) {
            self.cpus.topology.dies
        } else {
            1
        }
    }

    /// The vCPUs of each of the guest's instances.
    fn members(&self, pmu: UncorePmu) -> Vec<Vec<VcpuId>> {
        let topology = self.cpus.topology.scopes();
        let mut members = vec![Vec::new(); usize::from(self.model.instances(pmu, &topology))];
        for vcpu in self.cpus.possible() {
            let instance = self.model.instance(pmu, &topology, vcpu);
            if let Some(vcpus) = members.get_mut(usize::from(instance.0)) {
                vcpus.push(vcpu);
            }
        }
        members
    }

    /// The host's instance behind the guest's `n`th: the one that all of its
    /// vCPUs are bound to, else the one with the same number, counted round.
    fn behind(&self, places: &[UncorePlace], n: usize, vcpus: &[VcpuId]) -> Option<UncorePlace> {
        let bound_to = |place: &&UncorePlace| {
            let is_within = |cpus: &CpuSet| cpus.is_subset(place.cpus());
            let is_bound = |vcpu: &VcpuId| self.cpus.affinity.of(*vcpu).is_some_and(is_within);
            vcpus.iter().all(is_bound)
        };
        let mut bound = places.iter().filter(bound_to);
        match (bound.next(), bound.next()) {
            (Some(only), None) => Some(only.clone()),
            // The host does not tell them apart, or the vCPUs may run anywhere.
            _ => places.get(n % places.len().max(1)).cloned(),
        }
    }
}

impl fmt::Display for UncoreHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topology = self.cpus.topology.scopes();
        let mut comma = "";
        for (pmu, places) in &self.places {
            let guests = self.model.instances(*pmu, &topology);
            let hosts = places.len();
            write!(
                f,
                "{comma}{pmu} ({guests} of the guest's on {hosts} of the host's"
            )?;
            if *pmu == UncorePmu::Power {
                f.write_str(match self.share {
                    Share::CpuTime => ", the guest's part by CPU time",
                    Share::Raw => ", all of the host's energy",
                })?;
            }
            f.write_str(")")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// Whether a guest with this PMU can have them.
fn fits_model(asked: UncoreArg, guest: ModelKind) -> Result<(), UncoreError> {
    let is_new_amd = matches!(guest, ModelKind::Amd(AmdVersion::Core | AmdVersion::V2));
    for (key, on) in [
        ("amd_l3", asked.amd_l3),
        ("amd_df", asked.amd_df),
        ("amd_umc", asked.amd_umc),
    ] {
        if on && !is_new_amd {
            return Err(UncoreError::NeedsAmd { key, guest });
        }
    }
    if asked.amd_umc && guest != ModelKind::Amd(AmdVersion::V2) {
        return Err(UncoreError::NeedsV2 { guest });
    }
    Ok(())
}

/// The host's PMU behind this one, which must be there and count.
pub(crate) fn find_one(pmu: UncorePmu, sysfs: &Sysfs) -> Result<UncoreSource, UncoreError> {
    let refused = |source| UncoreError::Host { pmu, source };
    let source = UncoreSource::find(sysfs, &pmu.to_string()).map_err(refused)?;
    if pmu == UncorePmu::Power && !source.energy_domains().any(|d| d == EnergyDomain::Package) {
        let name = source.name().to_owned();
        return Err(refused(UncoreSourceError::NoEnergy(name)));
    }
    source.probe(&trial(pmu)).map_err(refused)?;
    Ok(source)
}

/// Every memory controller of the host, by number.
pub(crate) fn all_umc(sysfs: &Sysfs) -> Result<Vec<UncoreSource>, UncoreError> {
    let mut all = Vec::new();
    for number in 0..=u8::MAX {
        match find_one(UncorePmu::Umc(number), sysfs) {
            Ok(source) => all.push(source),
            Err(error) if number == 0 || !error.is_absence() => return Err(error),
            Err(_absent) => break,
        }
    }
    Ok(all)
}

/// The memory controllers by their number within a node, each of all nodes.
/// Linux numbers them on from node to node, or names those of all nodes by one
/// number; the CPU that stands for one tells its node. What not every node has is left out.
fn umc_units(sources: Vec<UncoreSource>) -> Vec<Vec<UncorePlace>> {
    let mut nodes: BTreeMap<HostCpu, Vec<UncorePlace>> = BTreeMap::new();
    for place in sources.into_iter().flat_map(UncoreSource::places) {
        nodes.entry(place.designated()).or_default().push(place);
    }
    let most = usize::from(UncoreModel::MAX_UMC);
    let units = nodes.values().map(Vec::len).min().unwrap_or(0).min(most);
    let of_unit = |unit| {
        let places = nodes.values().filter_map(|of_node| of_node.get(unit));
        places.cloned().collect()
    };
    (0..units).map(of_unit).collect()
}

/// An event that every PMU of this name counts.
const fn trial(pmu: UncorePmu) -> UncoreEvent {
    match pmu {
        UncorePmu::Power => UncoreEvent::Energy(EnergyDomain::Package),
        // Accesses, of all slices and threads.
        UncorePmu::L3 => UncoreEvent::L3(RawSelect(0xff0f_0000_0000_ff04)),
        // Beats of the first memory channel.
        UncorePmu::DataFabric => UncoreEvent::DataFabric(RawSelect(0x3807)),
        // The memory's clock.
        UncorePmu::Umc(unit) => UncoreEvent::Umc {
            unit,
            select: RawSelect(1),
        },
    }
}

/// What backs a PMU that the guest is not shown: nothing opens.
#[derive(Debug)]
struct NoHost;

impl UncoreHost for NoHost {
    fn open(
        &mut self,
        _: UncoreEventId,
        _: &UncoreEvent,
        _: ScopeInstance,
    ) -> Result<(), HostOpenError> {
        Err(HostOpenError::Unsupported)
    }

    fn close(&mut self, _: UncoreEventId) {}

    fn read(&mut self, _: UncoreEventId) -> Result<UncoreCount, ReadError> {
        Err(ReadError::Lost)
    }

    fn describe(&self, _: UncoreEventId) -> Option<String> {
        None
    }
}
