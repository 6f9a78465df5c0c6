//! The table of all vCPUs: events go in, steps come out.

use std::time::Instant;

use vpmu::ids::VcpuId;

use super::stage::PresenceStage;
use super::{
    EJECT_TIMEOUT, OFFER_TIMEOUT, Presence, PresenceRefusal, PresenceReport, PresenceStep,
    PresenceSteps, StartThread, THREAD_TIMEOUT, words,
};
use crate::devices::cpu_hotplug::{GuestAnswer, SlotFlags};

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

    /// The guest begins with these vCPUs. The uncore PMUs know them from the
    /// beginning, and no request is needed.
    #[must_use = "start each thread"]
    pub fn boot(&mut self, vcpus: impl IntoIterator<Item = VcpuId>) -> Vec<(StartThread, K)> {
        let vcpus = vcpus.into_iter();
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
