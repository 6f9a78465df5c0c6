//! The rows of all models together: what a VMM must intercept, what a saved state
//! lists, and what an index is called.

use alloc::string::String;

use crate::ids::MsrIndex;
use crate::x86::cpuid::Vendor;
use crate::x86::msr::row::{Row, RowConfig, SavedAs};
use crate::x86::msr::{ABSENT, Direction, MsrError, MsrRun, RDPMC};

use super::{amd, arch_perfmon};

/// A run of registers of a model, and which of them a saved state lists.
type Listed = (&'static MsrRun, SavedAs);

fn runs_of<C: RowConfig>(rows: &'static [Row<C>]) -> impl Iterator<Item = Listed> {
    rows.iter().map(|row| (&row.run, row.saved))
}

/// The rows of all models, in their order.
fn rows() -> impl Iterator<Item = Listed> {
    runs_of(&arch_perfmon::rows::ROWS).chain(runs_of(&amd::rows::ROWS))
}

/// Every run of MSR indices whose accesses a VMM hands to the PMU: the registers
/// of all models; registers that no model has, so that they are #GP; and the
/// indices of rewritten RDPMC instructions.
///
/// They are the same for every model, so that one MSR filter fits; of a guest's
/// vendor are those that [`MsrRun::is_for`] says.
pub fn intercepted() -> impl Iterator<Item = &'static MsrRun> {
    rows().map(|(run, _)| run).chain(&ABSENT).chain(&RDPMC)
}

/// Every register that some model has, in the order of rows. Alternating rows are
/// listed by index.
pub fn all_registers() -> impl Iterator<Item = MsrIndex> {
    listed().map(|(index, _)| index)
}

/// The registers of a saved state, of all models.
pub(crate) fn saved_registers() -> impl Iterator<Item = MsrIndex> {
    listed().filter_map(|(index, is_saved)| is_saved.then_some(index))
}

/// Every register with whether a saved state lists it.
fn listed() -> impl Iterator<Item = (MsrIndex, bool)> {
    // The second of two alternating rows is listed along with the first.
    let is_second = |run: &MsrRun| run.step == 2 && rows().any(|(first, _)| alternate(first, run));
    let firsts = rows().filter(move |(run, _)| !is_second(run));
    firsts.flat_map(|(run, saved)| {
        let second = rows().find(|(second, _)| alternate(run, second));
        run.indices().zip(0..).flat_map(move |(index, number)| {
            let other = second.map(|(second, its)| (second.index(number.into()), its.has(number)));
            [Some((index, saved.has(number))), other]
                .into_iter()
                .flatten()
        })
    })
}

/// Whether the indices of `second` are those between the indices of `first`.
fn alternate(first: &MsrRun, second: &MsrRun) -> bool {
    first.step == 2 && second.step == 2 && second.first.0 == first.first.0 + 1
}

/// The manual's name of the register at `msr`; `None` if no model has one there.
#[must_use]
pub fn register_name(msr: MsrIndex) -> Option<String> {
    rows().find_map(|(run, _)| Some(run.name_of(run.number(msr)?)))
}

/// Why an access of a guest of `vendor` fails where no PMU of its VM has the
/// register: the end of a chain of decodes.
/// [`MsrError::InvalidAccess`] for a PMU register, as on a CPU without this PMU
/// (rule G-007); [`MsrError::Unknown`] for an index that is no business of a PMU.
#[must_use]
pub fn refusal(vendor: Vendor, msr: MsrIndex) -> MsrError {
    let is_pmu = intercepted().any(|run| {
        run.direction == Direction::ReadWrite && run.is_for(vendor) && run.number(msr).is_some()
    });
    if is_pmu {
        MsrError::InvalidAccess
    } else {
        MsrError::Unknown
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::guest::{
        AmdConfig, AmdPmu, AmdVersion, ArchPerfmon, ArchPerfmonConfig, CoreType, GuestPmu, Model,
        ModelConfig, ModelKind,
    };
    use crate::ids::Pmc;
    use crate::x86::event::ArchEventSet;
    use crate::x86::msr::{DEBUGCTL, Register};

    fn intel() -> ArchPerfmon {
        let config = ArchPerfmonConfig::hybrid(CoreType::Core, ArchEventSet::ALL);
        ArchPerfmon::new(config)
    }

    fn amd() -> AmdPmu {
        AmdPmu::new(AmdConfig::new(AmdVersion::V2, ArchEventSet::ALL))
    }

    /// Guest-contract §8: each register is where the manual says.
    #[test]
    fn indices_decode_to_their_registers() {
        let gp = |i| Pmc::gp(i).unwrap();
        let fixed = |i| Pmc::fixed(i).unwrap();
        for (index, register, text) in [
            (0xc1, Register::Counter(gp(0)), "IA32_PMC0"),
            (0xc8, Register::Counter(gp(7)), "IA32_PMC7"),
            (0x4c3, Register::FullWidthCounter(gp(2)), "IA32_A_PMC2"),
            (0x18d, Register::EventSel(gp(7)), "IA32_PERFEVTSEL7"),
            (0x309, Register::FixedCounter(fixed(0)), "IA32_FIXED_CTR0"),
            (0x30c, Register::FixedCounter(fixed(3)), "IA32_FIXED_CTR3"),
            (0x38d, Register::FixedCtrCtrl, "IA32_FIXED_CTR_CTRL"),
            (0x38e, Register::GlobalStatus, "IA32_PERF_GLOBAL_STATUS"),
            (0x38f, Register::GlobalCtrl, "IA32_PERF_GLOBAL_CTRL"),
            (0x345, Register::PerfCapabilities, "IA32_PERF_CAPABILITIES"),
            (0x1d9, Register::DebugCtl, "IA32_DEBUGCTL"),
            (0x329, Register::PerfMetrics, "MSR_PERF_METRICS"),
            (0xc001_0003, Register::AmdEventSel(gp(3)), "PerfEvtSel3"),
            (0xc001_0004, Register::AmdCounter(gp(0)), "PerfCtr0"),
            (0xc001_020a, Register::AmdEventSel(gp(5)), "PERF_CTL5"),
            (0xc001_0203, Register::AmdCounter(gp(1)), "PERF_CTR1"),
            (0xc000_0301, Register::AmdGlobalCtl, "PerfCntrGlobalCtl"),
        ] {
            let msr = MsrIndex(index);
            let own = if index < 0xc000_0000 {
                intel().decode(msr)
            } else {
                amd().decode(msr)
            };
            assert_eq!(own.map(|access| access.register()), Ok(register), "{msr}");
            let other = if index < 0xc000_0000 {
                amd().decode(msr)
            } else {
                intel().decode(msr)
            };
            assert_eq!(other, Err(MsrError::Unknown), "{msr}");
            assert_eq!(register_name(msr).as_deref(), Some(text), "{msr}");
        }
        for vendor in [Vendor::Intel, Vendor::Amd] {
            for index in [0x611, 0xc001_020c, 0xc001_0299, 0xc001_0800, 0xc000_00e9] {
                let msr = MsrIndex(index);
                assert_eq!(refusal(vendor, msr), MsrError::InvalidAccess);
                assert_eq!(register_name(msr), None);
            }
            for index in [0x0, 0x10, 0xc9, 0x1a0, 0x30d, 0x393, 0x4000_0001] {
                assert_eq!(
                    refusal(vendor, MsrIndex(index)),
                    MsrError::Unknown,
                    "{index:#x}"
                );
            }
        }
    }

    #[test]
    fn no_index_is_listed_twice() {
        let mut all: Vec<_> = intercepted().flat_map(|run| run.indices()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    /// A look-up finds exactly what the rows list.
    #[test]
    fn every_row_is_found_and_nothing_else() {
        let (intel, amd) = (intel(), amd());
        let mut listed: Vec<_> = all_registers().collect();
        for msr in &listed {
            assert!(
                intel.decode(*msr).is_ok() != amd.decode(*msr).is_ok(),
                "{msr}"
            );
        }
        listed.sort_unstable();
        let spans = [
            0..0x1000,
            0xc000_0000..0xc000_0800,
            0xc001_0000..0xc001_1100,
        ];
        for msr in spans.into_iter().flatten().map(MsrIndex) {
            let found = intel.decode(msr).is_ok() || amd.decode(msr).is_ok();
            assert_eq!(found, listed.binary_search(&msr).is_ok(), "{msr}");
        }
    }

    /// The reset values of the rows are those of the models.
    #[test]
    fn every_register_has_its_rows_value_after_reset() {
        for kind in ModelKind::ALL {
            let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
            let model = Model::new(config);
            for msr in all_registers() {
                let Ok(access) = model.decode(msr) else {
                    continue;
                };
                let reset = match &config {
                    ModelConfig::Intel(config) => {
                        (ArchPerfmonConfig::row(msr).unwrap().0.reset)(config)
                    }
                    ModelConfig::Amd(config) => (AmdConfig::row(msr).unwrap().0.reset)(config),
                };
                assert_eq!(model.read(access), Ok(reset), "{kind} {msr}");
            }
        }
    }

    /// An AMD guest has KVM's DEBUGCTL; everything else leaves for both.
    #[test]
    fn one_register_is_emulated_for_one_vendor_alone() {
        for run in intercepted() {
            assert!(run.is_for(Vendor::Intel), "{}", run.name);
            assert_eq!(run.is_for(Vendor::Amd), run.first != DEBUGCTL);
        }
    }
}
