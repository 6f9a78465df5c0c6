//! The PMI of one vCPU, from the overflow that raises it to its end.
//!
//! ```text
//!            raise, if armed                 delivered
//!  ┌──────┐ ────────────────▶ ┌─────────┐ ─────────────────▶ Idle
//!  │ Idle │                   │ Pending │  dropped
//!  └──────┘                   └─────────┘ ─────────────────▶ Idle, and armed
//!                               │     ▲
//!                     postponed ▼     │ raise, if armed
//!                            ┌───────────┐
//!                            │ Postponed │ ──▶ as Pending
//!                            └───────────┘
//! ```
//!
//! A PMI leaves `Pending` and `Postponed` by one of the three answers of its
//! owner, or by a RESET of the vCPU. Nothing else loses it.

use crate::guest::{Arming, GuestPmu};
use crate::host::HostPmu;
use crate::units::Nanos;

use super::VcpuPmu;
use super::entry::EntryWants;

/// The longest time for which the guest runs on while a PMI waits for the end of
/// its NMI handler: then the owner is asked to deliver the PMI again.
const PMI_RETRY: Nanos = Nanos(20_000);

/// The one owner of a PMI on its way: every overflow, arming and delivery passes
/// through here (rules G-401 to G-405).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PmiLine {
    /// Stands for the LVTPC mask bit that Intel's hardware sets when it delivers
    /// a PMI (G-401): false while that bit would be set. Always true for models
    /// whose hardware sets none.
    armed: bool,
    stage: Stage,
}

/// How far a PMI has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Idle,
    /// Raised; the owner delivers it before the guest's next entry (G-404).
    Pending,
    /// The guest was in its NMI handler; the owner tries again.
    Postponed,
}

impl PmiLine {
    /// After RESET.
    pub(super) const RESET: Self = Self {
        armed: true,
        stage: Stage::Idle,
    };

    /// As [`PmiLine::is_armed`] and [`PmiLine::is_on_its_way`] told it when the
    /// state was saved.
    pub(super) const fn saved(armed: bool, on_its_way: bool) -> Self {
        let stage = if on_its_way {
            Stage::Pending
        } else {
            Stage::Idle
        };
        Self { armed, stage }
    }

    pub(super) const fn is_armed(self) -> bool {
        self.armed
    }

    /// Whether the guest still has to get a PMI.
    pub(super) const fn is_on_its_way(self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// A counter wrapped that asks for an interrupt. At most one PMI for each
    /// arming (G-401) where `masks` says that a delivery masks LVTPC; else one for
    /// each wrap (G-304).
    pub(super) const fn raise(&mut self, masks: bool) {
        if self.armed || !masks {
            self.stage = Stage::Pending;
        }
        self.armed = !masks;
    }

    /// The guest wrote a register: says whether a status that is still set is to
    /// be raised at once (G-402).
    pub(super) fn arm(&mut self, arming: Arming) -> bool {
        self.armed |= arming != Arming::No;
        arming == Arming::AtOnce
    }

    /// Guest time after which a PMI that was postponed is tried again.
    pub(super) const fn retry(self) -> Option<Nanos> {
        match self.stage {
            Stage::Postponed => Some(PMI_RETRY),
            Stage::Idle | Stage::Pending => None,
        }
    }

    /// The PMI is in the guest.
    pub(super) const fn delivered(&mut self) {
        self.stage = Stage::Idle;
    }

    /// The PMI waits for the end of the guest's NMI handler.
    pub(super) const fn postponed(&mut self) {
        self.stage = Stage::Postponed;
    }

    /// The PMI is gone, and the next overflow may interrupt.
    pub(super) const fn dropped(&mut self) {
        *self = Self::RESET;
    }
}

/// A PMI that the guest has to get before it runs on; its status bits are visible
/// already (G-404).
///
/// The owner tries to deliver it and answers with one of the three methods. Each
/// takes the PMI, so that it cannot be answered twice, and gives what
/// [`VcpuPmu::before_entry`] owes its caller. Without an answer, for example after
/// an error, the PMI stays pending and the next `before_entry` gives it again.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::ids::MsrIndex;
/// use vpmu::units::Nanos;
/// use vpmu::{BeforeEntry, Policy, Ran, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// pmu.wrmsr(MsrIndex(0x4c1), (1 << 48) - 1_000).unwrap(); // IA32_A_PMC0
/// pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap(); // IA32_PERFEVTSEL0: cycles, with a PMI
/// pmu.after_run(Ran { span: Nanos(1_000), interrupted: true, level: None });
/// let BeforeEntry::Pmi(pmi) = pmu.before_entry() else {
///     panic!("the counter has overflowed");
/// };
/// pmi.postponed(); // the guest is in its NMI handler
/// let BeforeEntry::Pmi(pmi) = pmu.before_entry() else {
///     panic!("it waits");
/// };
/// pmi.delivered();
/// assert_eq!(pmu.totals().pmis_injected, 1);
/// ```
#[derive(Debug)]
#[must_use = "the guest gets its PMI only if the owner delivers it"]
pub struct PendingPmi<'a, G, H>(&'a mut VcpuPmu<G, H>);

impl<'a, G: GuestPmu, H: HostPmu> PendingPmi<'a, G, H> {
    /// The PMI of `pmu`, if one is on its way and the status still has the
    /// overflow that it tells of. Without that, the guest would take the PMI for an
    /// unknown NMI (G-405): it is dropped.
    pub(super) fn of(pmu: &'a mut VcpuPmu<G, H>) -> Result<Self, &'a mut VcpuPmu<G, H>> {
        if !pmu.pmi.is_on_its_way() {
            return Err(pmu);
        }
        if !pmu.model.interrupt_due() {
            pmu.pmi_was_dropped();
            return Err(pmu);
        }
        Ok(Self(pmu))
    }

    /// The interrupt or NMI is queued for the guest's next entry.
    pub fn delivered(self) -> EntryWants {
        self.0.pmi_was_delivered();
        self.0.entry_wants()
    }

    /// The guest is in its NMI handler. The PMI stays on its way, and
    /// [`EntryWants::deadline`] says when to try again at the latest.
    pub fn postponed(self) -> EntryWants {
        self.0.pmi_was_postponed();
        self.0.entry_wants()
    }

    /// LVTPC is masked. As on hardware the PMI is gone, a status that is set
    /// stays, and the next overflow may interrupt again.
    pub fn dropped(self) -> EntryWants {
        self.0.pmi_was_dropped();
        self.0.entry_wants()
    }
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    pub(super) fn pmi_was_delivered(&mut self) {
        self.pmi.delivered();
        self.model.interrupt_told();
        self.totals.pmis_injected += 1;
    }

    pub(super) fn pmi_was_postponed(&mut self) {
        self.pmi.postponed();
        self.model.interrupt_postponed();
    }

    pub(super) fn pmi_was_dropped(&mut self) {
        self.pmi.dropped();
        self.model.interrupt_told();
        self.totals.pmis_suppressed += 1;
    }

    /// A counter wrapped that asks for an interrupt.
    pub(super) fn raise_pmi(&mut self) {
        self.pmi.raise(self.model.masks_pmi());
    }
}
