//! Which vCPUs the guest has, and which are on their way in or out: the one
//! owner of a vCPU's presence.
//!
//! ```text
//!  Absent ──offer──▶ (thread starts) ──started──▶ Offered ──accepted──▶ Present ◀─────────────┐
//!    ▲                      │                        │                   │   │                │
//!    │◀──────not started────┘                declined│             eject │   │ ask_to_leave   │ kept,
//!    │                               never looked at │                   │   ▼                │ EJECT_TIMEOUT
//!    │                                       eject   │                   │ AskedToLeave ──────┘
//!    │                                               ▼                   ▼   │ eject
//!    └──────────────────────joined──────────────── Leaving ◀─────────────────┘
//!                                                    │ thread panicked
//!                                                    ▼
//!                                                   Lost
//! ```
//! The table is pure: it starts no thread and reads no clock. Each event returns
//! [`PresenceSteps`], the steps that the caller must do at once and in their order
//! (`machine::presence` does). Others derive from them: the registers that the
//! guest reads, the set of vCPU threads, and the masks by which the uncore PMUs
//! choose a vCPU.
//!
//! A vCPU that leaves has its thread stopped first. The thread's end is an
//! event, and only then do the uncore PMUs lose the vCPU, so none of its
//! accesses comes from a vCPU that they do not know. When the VM ends, threads
//! end as well, and nothing moves to another vCPU.
//!
//! | here | ACPI, and the registers of [`crate::devices::cpu_hotplug`] | Linux |
//! |---|---|---|
//! | offer | device check, bit 1 | `acpi_processor_hotadd_init` |
//! | ask to leave | eject request, bit 2 | `acpi_scan_hot_remove` |
//! | eject | `_EJ0`, bit 3 | `acpi_evaluate_ej0` |
//! | accepted, declined, kept | `_OST` | `acpi_evaluate_ost` |
//!
//! The guest may eject a vCPU without a request (rule G-702). It acknowledges a
//! request before it fulfils it, so an eject does not depend on the request
//! being open (G-701).

mod words;

use std::time::{Duration, Instant};

use vpmu::ids::VcpuId;

pub use words::PresenceRefusal;

use crate::devices::cpu_hotplug::{GuestAnswer, SlotFlags};

/// How long the guest may take to accept an offered vCPU.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the guest may take to eject a vCPU that it was asked to give back.
const EJECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the thread of an ejected vCPU may take to end before the delay is
/// reported.
const THREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The guest does not have it, and it has no thread.
    Absent,
    /// The guest has been told of it and has not accepted it yet.
    Offered,
    /// The guest has it.
    Present,
    /// The guest has it and was asked to give it back.
    AskedToLeave,
    /// The guest has given it back; its thread is ending.
    Leaving,
    /// Its thread panicked, and KVM's vCPU is lost with it. The guest does not
    /// have it and cannot get it again.
    Lost,
}

/// A vCPU's presence, for the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceReport {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Where it is.
    pub presence: Presence,
    /// Why the last request failed, if it did.
    pub failure: Option<String>,
}

/// A step that an event calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceStep {
    /// The uncore PMUs get to know the vCPU.
    Arrive(VcpuId),
    /// The vCPU's thread, which waits, may enter the guest if the others do.
    RunThread(VcpuId),
    /// The vCPU's thread is told to end. It may be the calling thread.
    StopThread(VcpuId),
    /// The uncore PMUs lose the vCPU: counters that it stood for go to another
    /// one of their scope.
    Depart(VcpuId),
    /// The interrupt line makes the guest look at its registers.
    PulseLine,
}

/// The steps that an event calls for, in the order in which they are to be done.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "do each step: the table has changed already"]
pub struct PresenceSteps(Vec<PresenceStep>);

impl PresenceSteps {
    const fn none() -> Self {
        Self(Vec::new())
    }
}

impl IntoIterator for PresenceSteps {
    type Item = PresenceStep;
    type IntoIter = std::vec::IntoIter<PresenceStep>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The order to start the thread of a vCPU. It goes back to the table by
/// [`PresenceTable::started`] or [`PresenceTable::not_started`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tell the table whether the thread started"]
pub struct StartThread(VcpuId);

impl StartThread {
    /// The vCPU.
    #[must_use]
    pub const fn vcpu(&self) -> VcpuId {
        self.0
    }
}

/// [`Presence`], with the data that belongs to it.
#[derive(Debug)]
enum PresenceStage<K> {
    /// KVM's vCPU is kept here while it has no thread.
    Absent(K),
    /// The thread is coming up. The guest sees nothing of a vCPU that it does
    /// not boot with.
    Starting {
        boots: bool,
    },
    Offered {
        acknowledged: bool,
        deadline: Instant,
    },
    Present,
    AskedToLeave {
        acknowledged: bool,
        deadline: Instant,
    },
    Leaving {
        /// The thread has reported its end.
        ended: bool,
        /// `None` once the delay is reported.
        deadline: Option<Instant>,
    },
    Lost,
}

impl<K> PresenceStage<K> {
    const fn presence(&self) -> Presence {
        match self {
            Self::Absent(_) => Presence::Absent,
            Self::Starting { boots: false } | Self::Offered { .. } => Presence::Offered,
            Self::Starting { boots: true } | Self::Present => Presence::Present,
            Self::AskedToLeave { .. } => Presence::AskedToLeave,
            Self::Leaving { .. } => Presence::Leaving,
            Self::Lost => Presence::Lost,
        }
    }

    const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Offered { deadline, .. } | Self::AskedToLeave { deadline, .. } => Some(*deadline),
            Self::Leaving { deadline, .. } => *deadline,
            Self::Absent(_) | Self::Starting { .. } | Self::Present | Self::Lost => None,
        }
    }

    const fn is_unacknowledged(&self) -> bool {
        matches!(
            self,
            Self::Offered {
                acknowledged: false,
                ..
            } | Self::AskedToLeave {
                acknowledged: false,
                ..
            }
        )
    }
}

#[derive(Debug)]
struct VcpuEntry<K> {
    stage: PresenceStage<K>,
    /// Why the last request failed.
    failure: Option<String>,
}

/// The presence of every possible vCPU of one VM. `K` is KVM's vCPU, which the
/// table keeps while it has no thread.
#[derive(Debug)]
pub struct PresenceTable<K> {
    entries: Vec<VcpuEntry<K>>,
    /// The VM is ending: a thread that ends takes nothing with it.
    vm_ends: bool,
}

impl<K> PresenceTable<K> {
    /// A table of these vCPUs, by number. All are absent.
    pub fn new(vcpus: impl IntoIterator<Item = K>) -> Self {
        let entry = |vcpu| VcpuEntry {
            stage: PresenceStage::Absent(vcpu),
            failure: None,
        };
        Self {
            entries: vcpus.into_iter().map(entry).collect(),
            vm_ends: false,
        }
    }

    /// The number of possible vCPUs.
    #[must_use]
    pub fn max(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// The guest boots with the first `boot` vCPUs. The uncore PMUs know them
    /// from the beginning, and no request is needed.
    #[must_use = "start each thread"]
    pub fn boot(&mut self, boot: u16) -> Vec<(StartThread, K)> {
        let vcpus = (0..boot.min(self.max())).map(VcpuId);
        vcpus.filter_map(|vcpu| self.begin(vcpu, true)).collect()
    }

    /// Whether a vCPU could be offered to the guest.
    ///
    /// # Errors
    /// [`PresenceRefusal`]
    pub fn can_offer(&self, vcpu: VcpuId) -> Result<(), PresenceRefusal> {
        match self.find(vcpu)?.stage.presence() {
            Presence::Absent => Ok(()),
            Presence::Lost => Err(PresenceRefusal::Lost { vcpu }),
            presence => Err(PresenceRefusal::Elsewhere { vcpu, presence }),
        }
    }

    /// The operator adds a vCPU: its thread is to be started, with KVM's vCPU.
    ///
    /// # Errors
    /// [`PresenceTable::can_offer`]
    pub fn offer(&mut self, vcpu: VcpuId) -> Result<(StartThread, K), PresenceRefusal> {
        self.can_offer(vcpu)?;
        let max = self.max();
        let unknown = PresenceRefusal::Unknown { vcpu: vcpu.0, max };
        self.begin(vcpu, false).ok_or(unknown)
    }

    /// Takes KVM's vCPU out of an absent one.
    fn begin(&mut self, vcpu: VcpuId, boots: bool) -> Option<(StartThread, K)> {
        let entry = self.entries.get_mut(usize::from(vcpu.0))?;
        match std::mem::replace(&mut entry.stage, PresenceStage::Starting { boots }) {
            PresenceStage::Absent(kept) => {
                if !boots {
                    log_change(vcpu, Presence::Absent, Presence::Offered);
                }
                Some((StartThread(vcpu), kept))
            }
            other => {
                entry.stage = other;
                None
            }
        }
    }

    /// The thread is up and waits. The guest has a vCPU that it boots with, and
    /// is offered any other.
    pub fn started(&mut self, start: StartThread, now: Instant) -> PresenceSteps {
        let StartThread(vcpu) = start;
        if self
            .find(vcpu)
            .is_ok_and(|e| e.stage.presence() == Presence::Present)
        {
            self.enter(vcpu, PresenceStage::Present, None);
            return PresenceSteps::none();
        }
        let offered = PresenceStage::Offered {
            acknowledged: false,
            deadline: now + OFFER_TIMEOUT,
        };
        self.enter(vcpu, offered, None);
        PresenceSteps(vec![
            PresenceStep::Arrive(vcpu),
            PresenceStep::RunThread(vcpu),
            PresenceStep::PulseLine,
        ])
    }

    /// The thread did not come up. `kept` is KVM's vCPU, unless the thread died
    /// with it.
    pub fn not_started(&mut self, start: StartThread, kept: Option<K>) {
        self.without_thread(start.0, kept);
    }

    /// The operator removes a vCPU: the guest is asked to give it back.
    ///
    /// # Errors
    /// [`PresenceRefusal`] if the guest does not have it, if it is on its way,
    /// or if it is the boot CPU.
    pub fn ask_to_leave(
        &mut self,
        vcpu: VcpuId,
        now: Instant,
    ) -> Result<PresenceSteps, PresenceRefusal> {
        match self.find(vcpu)?.stage.presence() {
            Presence::Present if vcpu.0 == 0 => Err(PresenceRefusal::BootCpu { max: self.max() }),
            Presence::Present => {
                let asked = PresenceStage::AskedToLeave {
                    acknowledged: false,
                    deadline: now + EJECT_TIMEOUT,
                };
                self.enter(vcpu, asked, None);
                Ok(PresenceSteps(vec![PresenceStep::PulseLine]))
            }
            presence => Err(PresenceRefusal::Elsewhere { vcpu, presence }),
        }
    }

    /// How the guest's registers show a vCPU.
    #[must_use]
    pub fn flags(&self, vcpu: VcpuId) -> SlotFlags {
        let Ok(VcpuEntry { stage, .. }) = self.find(vcpu) else {
            return SlotFlags::default();
        };
        let is_unacknowledged = stage.is_unacknowledged();
        match stage {
            PresenceStage::Absent(_)
            | PresenceStage::Starting { .. }
            | PresenceStage::Leaving { .. }
            | PresenceStage::Lost => SlotFlags::default(),
            PresenceStage::Offered { .. } => SlotFlags {
                enabled: true,
                comes: is_unacknowledged,
                goes: false,
            },
            PresenceStage::Present | PresenceStage::AskedToLeave { .. } => SlotFlags {
                enabled: true,
                comes: false,
                goes: is_unacknowledged,
            },
        }
    }

    /// The guest has seen that a vCPU comes, or is to go.
    pub fn acknowledge(&mut self, vcpu: VcpuId, comes: bool, goes: bool) {
        match self
            .entries
            .get_mut(usize::from(vcpu.0))
            .map(|e| &mut e.stage)
        {
            Some(PresenceStage::Offered { acknowledged, .. }) => *acknowledged |= comes,
            Some(PresenceStage::AskedToLeave { acknowledged, .. }) => *acknowledged |= goes,
            _ => {}
        }
    }

    /// The guest ejects a vCPU, asked or not. Nothing happens to the boot CPU,
    /// nor to a vCPU that the guest does not have.
    pub fn eject(&mut self, vcpu: VcpuId, now: Instant) -> PresenceSteps {
        match self.find(vcpu).map(|entry| &entry.stage) {
            Ok(
                PresenceStage::Offered { .. }
                | PresenceStage::Present
                | PresenceStage::AskedToLeave { .. },
            ) if vcpu.0 != 0 => self.release(vcpu, now, None),
            _ => PresenceSteps::none(),
        }
    }

    /// The guest says what it made of a request. An answer that fits no open
    /// request changes nothing.
    pub fn answer(&mut self, vcpu: VcpuId, answer: GuestAnswer, now: Instant) -> PresenceSteps {
        match (self.find(vcpu).map(|entry| &entry.stage), answer) {
            (Ok(PresenceStage::Offered { .. }), GuestAnswer::Accepted) => {
                self.enter(vcpu, PresenceStage::Present, None);
                PresenceSteps::none()
            }
            (Ok(PresenceStage::Offered { .. }), GuestAnswer::Declined { status }) => {
                self.release(vcpu, now, Some(words::declined(vcpu, status)))
            }
            (Ok(PresenceStage::AskedToLeave { .. }), GuestAnswer::Kept { status }) => {
                self.enter(
                    vcpu,
                    PresenceStage::Present,
                    Some(words::kept(vcpu, status)),
                );
                PresenceSteps::none()
            }
            _ => PresenceSteps::none(),
        }
    }

    /// Ends requests that the guest has not fulfilled in time. A guest that has
    /// not looked at a request is told again: it does not hear a line that
    /// nobody listened to yet, while it boots.
    pub fn time_passes(&mut self, now: Instant) -> PresenceSteps {
        let overdue = |entry: &VcpuEntry<K>| entry.stage.deadline().is_some_and(|at| at <= now);
        let late: Vec<_> = (0..self.max())
            .zip(&self.entries)
            .filter(|(_, entry)| overdue(entry))
            .map(|(vcpu, _)| VcpuId(vcpu))
            .collect();
        let ended = late.into_iter().flat_map(|vcpu| self.overdue(vcpu, now));
        let mut steps = PresenceSteps(ended.collect());
        if self.has_news() {
            steps.0.push(PresenceStep::PulseLine);
        }
        steps
    }

    /// The time of a vCPU's request, or of its thread, is over.
    fn overdue(&mut self, vcpu: VcpuId, now: Instant) -> PresenceSteps {
        let Some(entry) = self.entries.get_mut(usize::from(vcpu.0)) else {
            return PresenceSteps::none();
        };
        match &mut entry.stage {
            // A guest without _OST says no more.
            PresenceStage::Offered {
                acknowledged: true, ..
            } => self.enter(vcpu, PresenceStage::Present, None),
            PresenceStage::Offered {
                acknowledged: false,
                ..
            } => {
                return self.release(vcpu, now, Some(words::never_looked_at(vcpu)));
            }
            PresenceStage::AskedToLeave { .. } => {
                self.enter(vcpu, PresenceStage::Present, Some(words::not_ejected(vcpu)))
            }
            PresenceStage::Leaving { deadline, .. } => {
                *deadline = None;
                entry.failure = Some(words::thread_held_up(vcpu));
            }
            PresenceStage::Absent(_)
            | PresenceStage::Starting { .. }
            | PresenceStage::Present
            | PresenceStage::Lost => {}
        }
        PresenceSteps::none()
    }

    /// The thread of a vCPU ends; the vCPU does not enter the guest any more.
    /// Unless the VM ends, only a vCPU that leaves has a thread that ends.
    pub fn thread_ended(&mut self, vcpu: VcpuId) -> PresenceSteps {
        let vm_ends = self.vm_ends;
        match self
            .entries
            .get_mut(usize::from(vcpu.0))
            .map(|e| &mut e.stage)
        {
            Some(PresenceStage::Leaving { ended, .. }) if !vm_ends && !*ended => {
                *ended = true;
                PresenceSteps(vec![PresenceStep::Depart(vcpu)])
            }
            _ => PresenceSteps::none(),
        }
    }

    /// The thread of a vCPU that leaves is joined. `kept` is KVM's vCPU, unless
    /// the thread panicked: such a thread has not reported its end.
    pub fn joined(&mut self, vcpu: VcpuId, kept: Option<K>) -> PresenceSteps {
        let steps = self.thread_ended(vcpu);
        self.without_thread(vcpu, kept);
        steps
    }

    /// The VM ends. From here on, a thread's end has no effect on others.
    pub const fn vm_ends(&mut self) {
        self.vm_ends = true;
    }

    /// Where a vCPU is.
    ///
    /// # Errors
    /// [`PresenceRefusal::Unknown`]
    pub fn report(&self, vcpu: VcpuId) -> Result<PresenceReport, PresenceRefusal> {
        let entry = self.find(vcpu)?;
        Ok(PresenceReport {
            vcpu,
            presence: entry.stage.presence(),
            failure: entry.failure.clone(),
        })
    }

    /// Where every possible vCPU is, by number.
    #[must_use]
    pub fn reports(&self) -> Vec<PresenceReport> {
        let one = |vcpu| self.report(VcpuId(vcpu)).ok();
        (0..self.max()).filter_map(one).collect()
    }

    /// Whether the guest has not looked at a request yet.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.entries.iter().any(|e| e.stage.is_unacknowledged())
    }

    fn find(&self, vcpu: VcpuId) -> Result<&VcpuEntry<K>, PresenceRefusal> {
        let max = self.max();
        let unknown = PresenceRefusal::Unknown { vcpu: vcpu.0, max };
        self.entries.get(usize::from(vcpu.0)).ok_or(unknown)
    }

    fn release(&mut self, vcpu: VcpuId, now: Instant, failure: Option<String>) -> PresenceSteps {
        let leaving = PresenceStage::Leaving {
            ended: false,
            deadline: Some(now + THREAD_TIMEOUT),
        };
        self.enter(vcpu, leaving, failure);
        PresenceSteps(vec![PresenceStep::StopThread(vcpu)])
    }

    /// Keeps KVM's vCPU, if there is one left. An earlier failure stays known.
    fn without_thread(&mut self, vcpu: VcpuId, kept: Option<K>) {
        let failure = self.find(vcpu).ok().and_then(|entry| entry.failure.clone());
        self.enter(
            vcpu,
            kept.map_or(PresenceStage::Lost, PresenceStage::Absent),
            failure,
        );
    }

    fn enter(&mut self, vcpu: VcpuId, stage: PresenceStage<K>, failure: Option<String>) {
        let Some(entry) = self.entries.get_mut(usize::from(vcpu.0)) else {
            return;
        };
        log_change(vcpu, entry.stage.presence(), stage.presence());
        if let Some(why) = failure.as_ref().filter(|_| entry.failure != failure) {
            log::warn!("{why}");
        }
        *entry = VcpuEntry { stage, failure };
    }
}

fn log_change(vcpu: VcpuId, from: Presence, to: Presence) {
    if from != to {
        log::info!("vCPU {vcpu}: {from:?} -> {to:?}");
    }
}

#[cfg(test)]
mod tests;
