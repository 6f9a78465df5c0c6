//! Which vCPUs are there, and what is on its way.
//!
//! ```text
//!           offer              the guest took it
//!  Absent ─────────▶ Inserting ─────────────────▶ Present ◀──────────┐
//!    ▲                  │ refused,                │  │ ask_back      │ refused, time-out
//!    │                  │ not seen in time        │  └────▶ Removing ┘
//!    │ gone             ▼                         │ eject      │ eject
//!    └───────────── Ejecting ◀────────────────────┴────────────┘
//! ```
//! The guest may eject without being asked (rule G-702). It acknowledges a
//! request before it fulfils it, so an eject does not depend on the request
//! being open (G-701).

use std::fmt;
use std::time::{Duration, Instant};

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::{ENABLED, INSERTING, REMOVING};

/// How long the guest may take over a vCPU that comes or goes.
const GUEST_TIME: Duration = Duration::from_secs(30);
/// How long a vCPU thread may take to end before somebody is told.
const THREAD_TIME: Duration = Duration::from_secs(5);

/// `_OST` source events and status codes (ACPI 6.5, "OSPM Status Indication").
const BUS_CHECK: u16 = 0;
const DEVICE_CHECK: u16 = 1;
const EJECT_REQUEST: u16 = 3;
const OSPM_EJECT: u16 = 0x103;
const SUCCESS: u32 = 0;
const DEVICE_BUSY: u32 = 0x82;
/// "In progress", of an insertion and of an ejection.
const INSERTION_GOES_ON: u32 = 0x82;
const EJECTION_GOES_ON: u32 = 0x84;

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// There is none.
    Absent,
    /// The guest has been told of it and has not taken it yet.
    Inserting,
    /// The guest has it.
    Present,
    /// The guest was asked to let it go.
    Removing,
    /// The guest has let it go; its thread ends.
    Ejecting,
}

/// One slot, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotReport {
    /// Which vCPU.
    pub vcpu: VcpuId,
    /// Where it is.
    pub state: SlotState,
    /// Why the last request came to nothing, if it did.
    pub failure: Option<String>,
}

/// Why nothing was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such vCPU.
    #[error("there is no vCPU {vcpu}; accepted: {}", numbers(*.max))]
    Unknown {
        /// What was asked for.
        vcpu: u16,
        /// How many there can be.
        max: u16,
    },
    /// The boot CPU stays.
    #[error("vCPU 0 is the boot CPU and cannot be removed; accepted: {}", others(*.max))]
    BootCpu {
        /// How many there can be.
        max: u16,
    },
    /// It is not where that could be done to it.
    #[error("vCPU {vcpu} {state}")]
    State {
        /// Which.
        vcpu: VcpuId,
        /// Where it is.
        state: SlotState,
    },
}

fn numbers(max: u16) -> String {
    match max {
        0 | 1 => "0".to_owned(),
        _ => format!("0 to {}", max - 1),
    }
}

fn others(max: u16) -> String {
    match max {
        0 | 1 => "none, as it is the only one".to_owned(),
        2 => "1".to_owned(),
        _ => format!("1 to {}", max - 1),
    }
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "is not plugged in",
            Self::Inserting => "is being added: the guest has not taken it yet",
            Self::Present => "is plugged in already",
            Self::Removing => "is being removed: the guest has not let it go yet",
            Self::Ejecting => "is being removed: its thread has not ended yet",
        })
    }
}

#[derive(Clone, Debug)]
struct Slot {
    state: SlotState,
    /// The guest has seen the request.
    seen: bool,
    /// When the guest's time is over.
    deadline: Option<Instant>,
    failure: Option<String>,
}

/// Every vCPU that can be.
#[derive(Debug)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// The first `boot` of `max` are there.
    #[must_use]
    pub fn new(boot: u16, max: u16) -> Self {
        let slot = |n| Slot {
            state: if n < boot {
                SlotState::Present
            } else {
                SlotState::Absent
            },
            seen: false,
            deadline: None,
            failure: None,
        };
        Self((0..max).map(slot).collect())
    }

    /// How many there can be.
    #[must_use]
    pub fn max(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// How the guest's registers show a vCPU.
    pub(super) fn flags(&self, vcpu: VcpuId) -> u8 {
        let Some(slot) = self.0.get(usize::from(vcpu.0)) else {
            return 0;
        };
        let news = |bit| if slot.seen { 0 } else { bit };
        match slot.state {
            SlotState::Absent | SlotState::Ejecting => 0,
            SlotState::Inserting => ENABLED | news(INSERTING),
            SlotState::Present => ENABLED,
            SlotState::Removing => ENABLED | news(REMOVING),
        }
    }

    /// Whether a vCPU could be added.
    ///
    /// # Errors
    /// Why not.
    pub fn can_offer(&self, vcpu: VcpuId) -> Result<(), Refusal> {
        match self.find(vcpu)?.state {
            SlotState::Absent => Ok(()),
            state => Err(Refusal::State { vcpu, state }),
        }
    }

    /// Shows the guest a vCPU, whose thread runs.
    ///
    /// # Errors
    /// [`Slots::can_offer`]
    pub fn offer(&mut self, vcpu: VcpuId, now: Instant) -> Result<(), Refusal> {
        self.can_offer(vcpu)?;
        self.enter(vcpu, SlotState::Inserting, Some(now + GUEST_TIME), None);
        Ok(())
    }

    /// Asks the guest to let a vCPU go.
    ///
    /// # Errors
    /// If it is not there, is on its way, or is the boot CPU.
    pub fn ask_back(&mut self, vcpu: VcpuId, now: Instant) -> Result<(), Refusal> {
        match self.find(vcpu)?.state {
            SlotState::Present if vcpu.0 == 0 => Err(Refusal::BootCpu { max: self.max() }),
            SlotState::Present => {
                self.enter(vcpu, SlotState::Removing, Some(now + GUEST_TIME), None);
                Ok(())
            }
            state => Err(Refusal::State { vcpu, state }),
        }
    }

    /// The guest has seen that the vCPU comes, or is to go.
    pub(super) fn seen(&mut self, vcpu: VcpuId, comes: bool, goes: bool) {
        if let Some(slot) = self.0.get_mut(usize::from(vcpu.0)) {
            slot.seen |= match slot.state {
                SlotState::Inserting => comes,
                SlotState::Removing => goes,
                _ => false,
            };
        }
    }

    /// The guest lets a vCPU go, asked or not. Returns whether it goes.
    pub(super) fn eject(&mut self, vcpu: VcpuId) -> bool {
        let now = Instant::now();
        match self.find(vcpu).map(|slot| slot.state) {
            Ok(SlotState::Inserting | SlotState::Present | SlotState::Removing) if vcpu.0 != 0 => {
                self.release(vcpu, now, None);
                true
            }
            _ => false,
        }
    }

    /// The guest says what became of a request. Returns whether the vCPU goes.
    pub(super) fn reported(&mut self, vcpu: VcpuId, event: u16, status: u32) -> bool {
        let Ok(state) = self.find(vcpu).map(|slot| slot.state) else {
            return false;
        };
        match (state, event, status) {
            (SlotState::Inserting, BUS_CHECK | DEVICE_CHECK, SUCCESS) => {
                self.enter(vcpu, SlotState::Present, None, None);
                false
            }
            (SlotState::Inserting, BUS_CHECK | DEVICE_CHECK, status)
                if status != INSERTION_GOES_ON =>
            {
                let why = format!("the guest does not take vCPU {vcpu} (_OST status {status:#x})");
                self.release(vcpu, Instant::now(), Some(why));
                true
            }
            (SlotState::Removing, EJECT_REQUEST | OSPM_EJECT, status)
                if !matches!(status, SUCCESS | EJECTION_GOES_ON) =>
            {
                let busy = if status == DEVICE_BUSY {
                    ": device busy"
                } else {
                    ""
                };
                let why = format!(
                    "the guest does not let vCPU {vcpu} go (_OST status {status:#x}{busy}); its kernel log says more"
                );
                self.enter(vcpu, SlotState::Present, None, Some(why));
                false
            }
            _ => false,
        }
    }

    /// Deals with the guest's time being over. Returns the vCPUs that go because
    /// the guest has never looked at them.
    pub fn expire(&mut self, now: Instant) -> Vec<VcpuId> {
        let over = |slot: &Slot| slot.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<_> = (0..self.max())
            .zip(&self.0)
            .filter(|(_, slot)| over(slot))
            .map(|(vcpu, slot)| (VcpuId(vcpu), slot.state, slot.seen))
            .collect();
        let mut gone = Vec::new();
        for (vcpu, state, seen) in late {
            match (state, seen) {
                // A guest without _OST says no more.
                (SlotState::Inserting, true) => self.enter(vcpu, SlotState::Present, None, None),
                (SlotState::Inserting, false) => {
                    self.release(vcpu, now, Some(unseen(vcpu)));
                    gone.push(vcpu);
                }
                (SlotState::Removing, _) => {
                    self.enter(vcpu, SlotState::Present, None, Some(kept(vcpu)));
                }
                (SlotState::Ejecting, _) => self.set_failure(vcpu, held_up(vcpu)),
                (SlotState::Absent | SlotState::Present, _) => {}
            }
        }
        gone
    }

    /// The thread of a vCPU has ended.
    pub fn gone(&mut self, vcpu: VcpuId) {
        let failure = self.find(vcpu).ok().and_then(|slot| slot.failure.clone());
        self.enter(vcpu, SlotState::Absent, None, failure);
    }

    /// One of them.
    ///
    /// # Errors
    /// If there is no such vCPU.
    pub fn report(&self, vcpu: VcpuId) -> Result<SlotReport, Refusal> {
        let slot = self.find(vcpu)?;
        Ok(SlotReport {
            vcpu,
            state: slot.state,
            failure: slot.failure.clone(),
        })
    }

    /// All of them.
    #[must_use]
    pub fn reports(&self) -> Vec<SlotReport> {
        let one = |vcpu| self.report(VcpuId(vcpu)).ok();
        (0..self.max()).filter_map(one).collect()
    }

    /// Whether the guest has not seen a request yet.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let unseen = |slot: &Slot| {
            !slot.seen && matches!(slot.state, SlotState::Inserting | SlotState::Removing)
        };
        self.0.iter().any(unseen)
    }

    fn find(&self, vcpu: VcpuId) -> Result<&Slot, Refusal> {
        let unknown = Refusal::Unknown {
            vcpu: vcpu.0,
            max: self.max(),
        };
        self.0.get(usize::from(vcpu.0)).ok_or(unknown)
    }

    fn release(&mut self, vcpu: VcpuId, now: Instant, failure: Option<String>) {
        self.enter(vcpu, SlotState::Ejecting, Some(now + THREAD_TIME), failure);
    }

    fn set_failure(&mut self, vcpu: VcpuId, why: String) {
        if let Some(slot) = self.0.get_mut(usize::from(vcpu.0)) {
            slot.deadline = None;
            slot.failure = Some(why);
        }
    }

    fn enter(
        &mut self,
        vcpu: VcpuId,
        state: SlotState,
        deadline: Option<Instant>,
        failure: Option<String>,
    ) {
        let Some(slot) = self.0.get_mut(usize::from(vcpu.0)) else {
            return;
        };
        log::info!("vCPU {vcpu}: {:?} -> {state:?}", slot.state);
        if let Some(why) = failure.as_ref().filter(|_| slot.failure != failure) {
            log::warn!("{why}");
        }
        *slot = Slot {
            state,
            seen: false,
            deadline,
            failure,
        };
    }
}

fn unseen(vcpu: VcpuId) -> String {
    format!(
        "the guest did not look at vCPU {vcpu} within {} s (it has no ACPI hot-plug, or is still booting); it is taken back",
        GUEST_TIME.as_secs()
    )
}

fn kept(vcpu: VcpuId) -> String {
    format!(
        "the guest did not let vCPU {vcpu} go within {} s; it keeps it",
        GUEST_TIME.as_secs()
    )
}

fn held_up(vcpu: VcpuId) -> String {
    format!(
        "the thread of vCPU {vcpu} has not ended within {} s (a full console pipe holds it, for one)",
        THREAD_TIME.as_secs()
    )
}

#[cfg(test)]
mod tests;
