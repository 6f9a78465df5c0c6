//! Which uncore PMUs a guest is shown, and whom each serves.

use crate::host::{EnergyDomain, ScopeInstance};
use crate::ids::VcpuId;
use crate::sched::{Scope, ScopeTopology};

/// An uncore PMU of the guest.
///
/// # Examples
/// ```
/// use vpmu::uncore::UncorePmu;
///
/// assert_eq!(UncorePmu::Umc(1).to_string(), "amd_umc_1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UncorePmu {
    /// `power`: RAPL.
    Power,
    /// `amd_l3`: one for each last-level cache.
    L3,
    /// `amd_df`: one for each node.
    DataFabric,
    /// `amd_umc_N`: the Nth memory controller of each node.
    Umc(u8),
}

impl core::fmt::Display for UncorePmu {
    /// Its name in the guest's sysfs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Power => f.write_str("power"),
            Self::L3 => f.write_str("amd_l3"),
            Self::DataFabric => f.write_str("amd_df"),
            Self::Umc(unit) => write!(f, "amd_umc_{unit}"),
        }
    }
}

/// Whose RAPL registers a guest has.
///
/// # Examples
/// ```
/// use vpmu::uncore::{Power, PowerForm, UncoreModel};
///
/// let model = UncoreModel::default().with_power(Power::new(PowerForm::Intel));
/// assert_eq!(model.power().map(|power| power.form()), Some(PowerForm::Intel));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerForm {
    /// MSR 606H and its neighbours; energy in 2^-14 J.
    Intel,
    /// MSR C001_0299 and C001_029B, the package alone; energy in 2^-16 J.
    Amd,
}

/// RAPL, as a guest has it.
///
/// # Examples
/// ```
/// use vpmu::host::EnergyDomain;
/// use vpmu::uncore::{Power, PowerForm};
///
/// let power = Power::new(PowerForm::Intel).with(EnergyDomain::Cores);
/// assert!(power.has(EnergyDomain::Package) && power.has(EnergyDomain::Cores));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    form: PowerForm,
    /// By the place in [`EnergyDomain::ALL`].
    domains: [bool; 5],
}

impl Power {
    /// RAPL of the package alone.
    #[must_use]
    pub const fn new(form: PowerForm) -> Self {
        Self {
            form,
            domains: [true, false, false, false, false],
        }
    }

    /// With this domain as well. AMD's form has the package alone, whatever is
    /// added.
    #[must_use]
    pub fn with(mut self, domain: EnergyDomain) -> Self {
        if self.form == PowerForm::Intel {
            self.domains[domain as usize] = true;
        }
        self
    }

    /// Whose registers.
    #[must_use]
    pub const fn form(&self) -> PowerForm {
        self.form
    }

    /// Whether the guest may read `domain`.
    #[must_use]
    pub const fn has(&self, domain: EnergyDomain) -> bool {
        self.domains[domain as usize]
    }
}

/// More memory controllers than a guest can be told of.
///
/// # Examples
/// ```
/// use vpmu::uncore::{TooManyUnits, UncoreModel};
///
/// let too_many = UncoreModel::MAX_UMC + 1;
/// assert_eq!(UncoreModel::default().with_umc(too_many), Err(TooManyUnits(too_many)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} memory controllers; accepted: 1 to {max}", max = UncoreModel::MAX_UMC)]
pub struct TooManyUnits(pub u8);

/// Which uncore PMUs a guest is shown; none by default.
///
/// # Examples
/// ```
/// use vpmu::uncore::{Power, PowerForm, UncoreModel};
///
/// let model = UncoreModel::default()
///     .with_power(Power::new(PowerForm::Amd))
///     .with_l3();
/// assert_eq!(model.pmus().count(), 2);
/// assert!(UncoreModel::default().is_empty(), "a guest has none unless asked for");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UncoreModel {
    power: Option<Power>,
    l3: bool,
    df: bool,
    umc: u8,
}

impl UncoreModel {
    /// Counters of a last-level cache (family 17h and later).
    pub const L3_COUNTERS: u8 = 6;
    /// Counters of a node's data fabric. RDPMC indices of further ones would
    /// fall on the TSC's register (guest-contract §3.2).
    pub const DF_COUNTERS: u8 = 4;
    /// Counters of a memory controller.
    pub const UMC_COUNTERS: u8 = 4;
    /// The most memory controllers of a node: leaf 8000_0022H:EBX has six bits
    /// for the counters of all.
    pub const MAX_UMC: u8 = 15;

    /// With RAPL.
    #[must_use]
    pub const fn with_power(mut self, power: Power) -> Self {
        self.power = Some(power);
        self
    }

    /// With `amd_l3`.
    #[must_use]
    pub const fn with_l3(mut self) -> Self {
        self.l3 = true;
        self
    }

    /// With `amd_df`.
    #[must_use]
    pub const fn with_df(mut self) -> Self {
        self.df = true;
        self
    }

    /// With so many memory controllers a node.
    ///
    /// # Errors
    /// [`TooManyUnits`] for 0 and for more than [`UncoreModel::MAX_UMC`].
    pub const fn with_umc(mut self, units: u8) -> Result<Self, TooManyUnits> {
        if units == 0 || units > Self::MAX_UMC {
            return Err(TooManyUnits(units));
        }
        self.umc = units;
        Ok(self)
    }

    /// RAPL, if it has it.
    #[must_use]
    pub const fn power(&self) -> Option<Power> {
        self.power
    }

    /// Whether it has `amd_l3`.
    #[must_use]
    pub const fn l3(&self) -> bool {
        self.l3
    }

    /// Whether it has `amd_df`.
    #[must_use]
    pub const fn df(&self) -> bool {
        self.df
    }

    /// Memory controllers of each node.
    #[must_use]
    pub const fn umc(&self) -> u8 {
        self.umc
    }

    /// Whether it has nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Its PMUs.
    pub fn pmus(&self) -> impl Iterator<Item = UncorePmu> + use<> {
        let power = self.power.map(|_| UncorePmu::Power);
        let l3 = self.l3.then_some(UncorePmu::L3);
        let df = self.df.then_some(UncorePmu::DataFabric);
        let umc = (0..self.umc).map(UncorePmu::Umc);
        power.into_iter().chain(l3).chain(df).chain(umc)
    }

    /// Who shares an instance. A node is a die, and so is a last-level cache
    /// (the topology leaves say so). Energy is the package's: Linux 6.1, and
    /// 6.12 on Intel, has a reader in each die, but reads its event with the
    /// register of whichever CPU of the package the reading program is on
    /// (`PERF_EV_CAP_READ_ACTIVE_PKG`), so that all must read the same (G-603).
    #[must_use]
    pub const fn scope(&self, pmu: UncorePmu) -> Scope {
        match pmu {
            UncorePmu::Power => Scope::Package,
            UncorePmu::L3 | UncorePmu::DataFabric | UncorePmu::Umc(_) => Scope::Die,
        }
    }

    /// How many instances of `pmu` there are.
    #[must_use]
    pub fn instances(&self, pmu: UncorePmu, topology: &ScopeTopology) -> u16 {
        topology.count().div_ceil(self.share(pmu, topology))
    }

    /// The instance that serves `vcpu`.
    #[must_use]
    pub fn instance(
        &self,
        pmu: UncorePmu,
        topology: &ScopeTopology,
        vcpu: VcpuId,
    ) -> ScopeInstance {
        ScopeInstance(vcpu.0 / self.share(pmu, topology))
    }

    /// How many vCPUs share an instance.
    fn share(&self, pmu: UncorePmu, topology: &ScopeTopology) -> u16 {
        let peers = topology.peers(self.scope(pmu), VcpuId(0)).count();
        u16::try_from(peers).unwrap_or(u16::MAX).max(1)
    }
}
