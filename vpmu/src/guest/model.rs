//! Any model, for a vCPU whose model is chosen at run time.

use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::PmuCpuid;
use crate::x86::msr::{Access, MsrError, Register};

use super::{AmdPmu, ArchPerfmon, Demand, GuestPmu, Identity, ModelConfig, Wrap, all_registers};

/// The register file of one vCPU, of any model.
///
/// An enum and not a `Box<dyn GuestPmu>`: the set of models is closed, a
/// register exit asks the model some ten times, and a branch that always goes
/// the same way costs less there than as many indirect calls; the register
/// file lies inside the vCPU's PMU, and can be cloned and saved as a value.
///
/// # Examples
/// ```
/// use vpmu::guest::{GuestPmu, Model, ModelConfig, ModelKind};
/// use vpmu::x86::event::ArchEventSet;
/// use vpmu::x86::msr::GLOBAL_CTRL;
///
/// let kind = ModelKind::from_name("intel-v4").unwrap();
/// let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
/// let mut model = Model::new(config);
/// assert!(model.wrmsr(GLOBAL_CTRL, 1 << 40).is_err(), "a reserved bit is #GP");
/// assert_eq!(model.rdmsr(GLOBAL_CTRL), Ok(0xf), "as after RESET");
/// ```
#[derive(Clone, Debug)]
pub enum Model {
    /// Architectural performance monitoring.
    Intel(ArchPerfmon),
    /// AMD's core counters.
    Amd(AmdPmu),
}

impl Model {
    /// A PMU after RESET.
    #[must_use]
    pub fn new(config: ModelConfig) -> Self {
        match config {
            ModelConfig::Intel(config) => Self::Intel(ArchPerfmon::new(config)),
            ModelConfig::Amd(config) => Self::Amd(AmdPmu::new(config)),
        }
    }

    /// The registers that this PMU has, each address of each register.
    pub fn registers(&self) -> impl Iterator<Item = (MsrIndex, Access<Register>)> {
        all_registers().filter_map(|index| Some((index, self.decode(index).ok()?)))
    }
}

macro_rules! each {
    ($self:ident, $pmu:ident => $call:expr) => {
        match $self {
            Self::Intel($pmu) => $call,
            Self::Amd($pmu) => $call,
        }
    };
}

impl GuestPmu for Model {
    fn cpuid(&self) -> PmuCpuid {
        each!(self, pmu => pmu.cpuid())
    }
    fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        each!(self, pmu => pmu.decode(msr))
    }
    fn counters(&self) -> PmcSet {
        each!(self, pmu => pmu.counters())
    }
    fn read(&self, access: Access<Register>) -> Result<u64, MsrError> {
        each!(self, pmu => pmu.read(access))
    }
    fn write(&mut self, access: Access<Register>, value: u64) -> Result<(), MsrError> {
        each!(self, pmu => pmu.write(access, value))
    }
    fn rdpmc_counter(&self, ecx: u32) -> Option<Pmc> {
        each!(self, pmu => pmu.rdpmc_counter(ecx))
    }
    fn rdpmc_other(&self, ecx: u32) -> Option<u64> {
        each!(self, pmu => pmu.rdpmc_other(ecx))
    }
    fn value(&self, pmc: Pmc) -> u64 {
        each!(self, pmu => pmu.value(pmc))
    }
    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        each!(self, pmu => pmu.demand(pmc))
    }
    fn distance(&self, pmc: Pmc) -> Count {
        each!(self, pmu => pmu.distance(pmc))
    }
    fn advance(&mut self, pmc: Pmc, events: Count) -> Wrap {
        each!(self, pmu => pmu.advance(pmc, events))
    }
    fn interrupt_due(&self) -> bool {
        each!(self, pmu => pmu.interrupt_due())
    }
    fn interrupt_postponed(&mut self) {
        each!(self, pmu => pmu.interrupt_postponed());
    }
    fn interrupt_told(&mut self) {
        each!(self, pmu => pmu.interrupt_told());
    }
    fn masks_pmi(&self) -> bool {
        each!(self, pmu => pmu.masks_pmi())
    }
    fn identity(&self) -> Identity {
        each!(self, pmu => pmu.identity())
    }
    fn load(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        each!(self, pmu => pmu.load(msr, value))
    }
    fn told(&self) -> PmcSet {
        each!(self, pmu => pmu.told())
    }
    fn load_told(&mut self, told: PmcSet) -> Result<(), MsrError> {
        each!(self, pmu => pmu.load_told(told))
    }
    fn reset(&mut self) {
        each!(self, pmu => pmu.reset());
    }
}
