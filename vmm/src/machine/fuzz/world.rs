//! The vCPUs of a VM that is none: who has which, and whether each step of the
//! presence table fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vpmu::ids::VcpuId;

use crate::devices::cpu_hotplug::{GuestAnswer, HotplugOwner, SlotFlags};
use crate::vcpu::presence::{
    Presence, PresenceReport, PresenceStep, PresenceSteps, PresenceTable, StartThread,
};

/// KVM's vCPU: there is one of each number, and it is never copied.
#[derive(Debug, PartialEq, Eq)]
struct Token(VcpuId);

/// Longer than any request, and than any end of a thread, has time.
const LONG: Duration = Duration::from_secs(120);

/// A vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    Runs,
    /// It was told to end.
    Told,
    /// It has reported its end.
    Ended,
}

/// A VM's vCPUs.
#[derive(Debug)]
pub(super) struct World {
    table: PresenceTable<Token>,
    threads: BTreeMap<VcpuId, (Thread, Token)>,
    starting: Vec<(StartThread, Token)>,
    /// The vCPUs that the uncore PMUs know.
    uncore: BTreeSet<VcpuId>,
    lost: BTreeSet<VcpuId>,
    now: Instant,
    vm_ends: bool,
}

/// What can be seen of the vCPUs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<PresenceReport>, Vec<SlotFlags>);

/// The world behind the registers.
#[derive(Debug)]
pub(super) struct Owner(Mutex<World>);

impl Owner {
    pub(super) const fn new(world: World) -> Self {
        Self(Mutex::new(world))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HotplugOwner for Owner {
    fn flags(&self, vcpu: VcpuId) -> SlotFlags {
        self.lock().table.flags(vcpu)
    }

    fn acknowledged(&self, vcpu: VcpuId, comes: bool, goes: bool) {
        self.lock().table.acknowledge(vcpu, comes, goes);
    }

    fn ejected(&self, vcpu: VcpuId) {
        let mut world = self.lock();
        let now = world.now;
        let steps = world.table.eject(vcpu, now);
        world.perform(steps);
    }

    fn answered(&self, vcpu: VcpuId, answer: GuestAnswer) {
        let mut world = self.lock();
        let now = world.now;
        let steps = world.table.answer(vcpu, answer, now);
        world.perform(steps);
    }
}

impl World {
    /// A VM that has booted with some of its vCPUs.
    pub(super) fn new(boot: u16, max: u16) -> Self {
        let mut world = Self {
            table: PresenceTable::new((0..max).map(|vcpu| Token(VcpuId(vcpu)))),
            threads: BTreeMap::new(),
            starting: Vec::new(),
            uncore: (0..boot).map(VcpuId).collect(),
            lost: BTreeSet::new(),
            now: Instant::now(),
            vm_ends: false,
        };
        for (start, token) in world.table.boot((0..boot).map(VcpuId)) {
            world.start(start, token);
        }
        world
    }

    pub(super) fn look(&self) -> Look {
        let all = (0..self.table.max()).map(VcpuId);
        Look(
            self.table.reports(),
            all.map(|vcpu| self.table.flags(vcpu)).collect(),
        )
    }

    fn presence(&self, vcpu: VcpuId) -> Option<Presence> {
        self.table.report(vcpu).ok().map(|report| report.presence)
    }

    /// Does what the table calls for, each step in a state in which it makes sense.
    fn perform(&mut self, steps: PresenceSteps) {
        for step in steps {
            match step {
                // At the end of the VM nobody departs.
                PresenceStep::Arrive(vcpu) => {
                    assert!(self.uncore.insert(vcpu) || self.vm_ends, "{step:?}");
                }
                PresenceStep::Depart(vcpu) => assert!(self.uncore.remove(&vcpu), "{step:?}"),
                PresenceStep::RunThread(vcpu) => {
                    let thread = self.threads.get(&vcpu).map(|(thread, _)| *thread);
                    assert_eq!(thread, Some(Thread::Runs), "{step:?}");
                }
                PresenceStep::StopThread(vcpu) => {
                    assert_ne!(vcpu.0, 0, "the boot CPU stays");
                    let thread = self.threads.get_mut(&vcpu).map(|(thread, _)| thread);
                    assert_eq!(thread.as_deref(), Some(&Thread::Runs), "{step:?}");
                    thread.into_iter().for_each(|thread| *thread = Thread::Told);
                }
                PresenceStep::PulseLine => assert!(self.table.has_news(), "{step:?}"),
            }
        }
    }

    /// The operator adds a vCPU; its thread comes up later.
    pub(super) fn offer(&mut self, vcpu: VcpuId) {
        let can = self.table.can_offer(vcpu).is_ok();
        assert_eq!(can, self.presence(vcpu) == Some(Presence::Absent));
        match self.table.offer(vcpu) {
            Ok((start, token)) => {
                assert!(can && start.vcpu() == vcpu && token.0 == vcpu);
                self.starting.push((start, token));
            }
            Err(_) => assert!(!can),
        }
    }

    /// A thread comes up, or does not, or dies with its vCPU.
    pub(super) fn finish_start(&mut self, number: u8) {
        if self.starting.is_empty() {
            return;
        }
        let (start, token) = self
            .starting
            .remove(usize::from(number) % self.starting.len());
        match number >> 6 {
            0 => self.table.not_started(start, Some(token)),
            1 => {
                self.lost.insert(token.0);
                self.table.not_started(start, None);
            }
            _ => self.start(start, token),
        }
    }

    fn start(&mut self, start: StartThread, token: Token) {
        let thread = (Thread::Runs, token);
        assert!(self.threads.insert(start.vcpu(), thread).is_none());
        let steps = self.table.started(start, self.now);
        self.perform(steps);
    }

    /// The operator removes a vCPU.
    pub(super) fn ask_to_leave(&mut self, vcpu: VcpuId) {
        let can = self.presence(vcpu) == Some(Presence::Present) && vcpu.0 != 0;
        match self.table.ask_to_leave(vcpu, self.now) {
            Ok(steps) => {
                assert!(can, "{vcpu}");
                self.perform(steps);
            }
            Err(_) => assert!(!can, "{vcpu}"),
        }
    }

    fn thread_that(&self, number: u8, fits: impl Fn(Thread) -> bool) -> Option<VcpuId> {
        let mut all = self.threads.iter().filter(|(_, (t, _))| fits(*t));
        let count = all.clone().count();
        let at = usize::from(number).checked_rem(count)?;
        all.nth(at).map(|(vcpu, _)| *vcpu)
    }

    /// A thread that was told to end does.
    pub(super) fn end_thread(&mut self, number: u8) {
        if let Some(vcpu) = self.thread_that(number, |thread| thread == Thread::Told) {
            self.thread_ends(vcpu);
        }
    }

    fn thread_ends(&mut self, vcpu: VcpuId) {
        if let Some((thread, _)) = self.threads.get_mut(&vcpu) {
            *thread = Thread::Ended;
        }
        let steps = self.table.thread_ended(vcpu);
        self.perform(steps);
        assert!(self.vm_ends || !self.uncore.contains(&vcpu), "{vcpu}");
    }

    /// A thread that has ended, or has panicked on its way there, is joined.
    pub(super) fn join(&mut self, number: u8) {
        let Some(vcpu) = self.thread_that(number, |thread| thread != Thread::Runs) else {
            return;
        };
        let Some((thread, token)) = self.threads.remove(&vcpu) else {
            return;
        };
        let kept = (thread == Thread::Ended).then_some(token);
        if kept.is_none() {
            self.lost.insert(vcpu);
        }
        let steps = self.table.joined(vcpu, kept);
        self.perform(steps);
    }

    /// Time passes, and somebody asks.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let steps = self.table.time_passes(self.now);
        self.perform(steps);
    }

    /// The VM ends: nothing moves to another vCPU any more.
    pub(super) fn end_vm(&mut self) {
        self.vm_ends = true;
        self.table.vm_ends();
    }

    /// What holds at any time.
    pub(super) fn check(&self) {
        let mut news = false;
        for report in self.table.reports() {
            let (vcpu, presence) = (report.vcpu, report.presence);
            let flags = self.table.flags(vcpu);
            let thread = self.threads.get(&vcpu).map(|(thread, _)| *thread);
            let starts = self.starting.iter().any(|(start, _)| start.vcpu() == vcpu);
            news |= flags.comes || flags.goes;
            assert!(!(flags.comes && flags.goes), "{report:?}");
            assert!(flags.enabled || !(flags.comes || flags.goes), "{report:?}");
            assert_eq!(flags.enabled, thread == Some(Thread::Runs), "{report:?}");
            assert!(self.vm_ends || !flags.enabled || self.uncore.contains(&vcpu));
            let fits = match presence {
                Presence::Absent | Presence::Lost => thread.is_none() && !starts,
                Presence::Offered => starts != (thread == Some(Thread::Runs)),
                Presence::Present | Presence::AskedToLeave => thread == Some(Thread::Runs),
                Presence::Leaving => matches!(thread, Some(Thread::Told | Thread::Ended)),
            };
            assert!(fits, "{report:?}: {thread:?}, starts: {starts}");
            assert_eq!(presence == Presence::Lost, self.lost.contains(&vcpu));
            assert!(report.failure.is_none_or(|why| why.contains("vCPU")));
        }
        assert_eq!(self.table.has_news(), news);
        assert!(
            self.presence(VcpuId(0)) == Some(Presence::Present),
            "the boot CPU"
        );
        let nobody = VcpuId(self.table.max());
        assert_eq!(self.table.flags(nobody), SlotFlags::default());
    }

    /// The guest does nothing more, threads end, and time passes: every request is
    /// over, and every vCPU is in one place.
    pub(super) fn settle(&mut self) {
        while !self.starting.is_empty() {
            self.finish_start(0xff);
        }
        for _ in 0..2 {
            self.pass(LONG);
            while self.thread_that(0, |t| t == Thread::Told).is_some() {
                self.end_thread(0);
            }
            while self.thread_that(0, |t| t == Thread::Ended).is_some() {
                self.join(0);
            }
        }
        self.check();
        for report in self.table.reports() {
            let is_over = matches!(
                report.presence,
                Presence::Absent | Presence::Present | Presence::Lost
            );
            assert!(is_over, "{report:?}");
        }
    }
}
