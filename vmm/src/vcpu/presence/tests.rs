use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::config::CpusConfig;
use crate::devices::BusDevice;
use crate::devices::cpu_hotplug::{
    self, CpuHotplug, DEVICE_BUSY, EJECT, ENABLED, FLAGS, GuestAnswer, HotplugLine, HotplugOwner,
    INSERTING, OST_EVENT, OST_STATUS, REMOVING, SELECT, SlotFlags,
};

const ONE: VcpuId = VcpuId(1);

/// `_OST` source events and status codes (ACPI 6.5).
const DEVICE_CHECK: u16 = 1;
const EJECT_REQUEST: u16 = 3;
const SUCCESS: u32 = 0;
const INSERTION_GOES_ON: u32 = 0x82;
const EJECTION_GOES_ON: u32 = 0x84;

/// The table of a VM that runs, with `boot` of `max` vCPUs.
fn table(boot: u16, max: u16) -> PresenceTable<VcpuId> {
    let mut table = PresenceTable::new((0..max).map(VcpuId));
    for (start, kept) in table.boot((0..boot).map(VcpuId)) {
        assert_eq!(kept, start.vcpu());
        assert_eq!(table.started(start, Instant::now()), PresenceSteps::none());
    }
    table
}

impl PresenceTable<VcpuId> {
    /// The thread comes up at once.
    fn offer_now(&mut self, vcpu: VcpuId, now: Instant) -> Result<PresenceSteps, PresenceRefusal> {
        let (start, kept) = self.offer(vcpu)?;
        assert_eq!((start.vcpu(), kept), (vcpu, vcpu));
        Ok(self.started(start, now))
    }

    fn reported(&mut self, vcpu: VcpuId, event: u16, status: u32) -> PresenceSteps {
        match GuestAnswer::decode(event, status) {
            Some(answer) => self.answer(vcpu, answer, Instant::now()),
            None => PresenceSteps::none(),
        }
    }

    fn gone(&mut self, vcpu: VcpuId) {
        assert_eq!(self.thread_ended(vcpu).0, [PresenceStep::Depart(vcpu)]);
        assert_eq!(self.joined(vcpu, Some(vcpu)), PresenceSteps::none());
    }
}

fn presence(table: &PresenceTable<VcpuId>) -> Presence {
    table.report(ONE).unwrap().presence
}

fn failure(table: &PresenceTable<VcpuId>) -> String {
    table.report(ONE).unwrap().failure.unwrap_or_default()
}

fn later(now: Instant) -> Instant {
    now + OFFER_TIMEOUT.max(EJECT_TIMEOUT) + Duration::from_millis(1)
}

const OFFERED: [PresenceStep; 3] = [
    PresenceStep::Arrive(ONE),
    PresenceStep::RunThread(ONE),
    PresenceStep::PulseLine,
];
const LEAVES: [PresenceStep; 1] = [PresenceStep::StopThread(ONE)];

#[test]
fn refusals_name_what_would_do() {
    let now = Instant::now();
    let mut table = table(2, 4);
    let no = |outcome: Result<PresenceSteps, PresenceRefusal>| outcome.unwrap_err().to_string();
    assert!(no(table.offer_now(VcpuId(4), now)).contains("accepted: 0 to 3"));
    assert!(no(table.ask_to_leave(VcpuId(9), now)).contains("accepted: 0 to 3"));
    assert!(no(table.ask_to_leave(VcpuId(0), now)).contains("accepted: 1 to 3"));
    assert!(no(table.offer_now(ONE, now)).contains("plugged in already"));
    assert!(no(table.ask_to_leave(VcpuId(2), now)).contains("not plugged in"));
    assert_ne!(
        table.offer_now(VcpuId(2), now).unwrap(),
        PresenceSteps::none()
    );
    assert!(no(table.offer_now(VcpuId(2), now)).contains("being added"));
    assert!(no(table.ask_to_leave(VcpuId(2), now)).contains("being added"));
    assert_eq!(
        table.ask_to_leave(ONE, now).unwrap().0,
        [PresenceStep::PulseLine]
    );
    assert!(no(table.ask_to_leave(ONE, now)).contains("being removed"));
    assert_eq!(table.eject(ONE, now).0, LEAVES);
    assert!(no(table.ask_to_leave(ONE, now)).contains("thread has not ended"));
    assert!(no(table.offer_now(ONE, now)).contains("thread has not ended"));
    table.gone(ONE);
    assert_eq!(table.offer_now(ONE, now).unwrap().0, OFFERED);
}

/// Guest-contract §7.4.
#[test]
fn a_guest_that_does_not_let_go_keeps_it_and_may_let_go_later() {
    let now = Instant::now();
    let mut table = table(2, 2);
    assert_eq!(
        table.ask_to_leave(ONE, now).unwrap().0,
        [PresenceStep::PulseLine]
    );
    assert_eq!(
        table.time_passes(now).0,
        [PresenceStep::PulseLine],
        "a reminder"
    );
    table.acknowledge(ONE, false, true);
    assert_eq!(table.time_passes(now).0, []);
    assert_eq!(presence(&table), Presence::AskedToLeave);
    assert_eq!(table.time_passes(later(now)).0, []);
    assert_eq!(presence(&table), Presence::Present);
    assert!(failure(&table).contains("did not let vCPU 1 go within 30 s"));
    assert_eq!(
        table.ask_to_leave(ONE, now).unwrap().0,
        [PresenceStep::PulseLine]
    );
    assert_eq!(failure(&table), "");
    assert_eq!(table.reported(ONE, EJECT_REQUEST, EJECTION_GOES_ON).0, []);
    assert_eq!(presence(&table), Presence::AskedToLeave);
    assert_eq!(table.reported(ONE, EJECT_REQUEST, DEVICE_BUSY).0, []);
    assert_eq!(presence(&table), Presence::Present);
    assert!(failure(&table).contains("0x82: device busy"));
    assert_eq!(table.eject(ONE, now).0, LEAVES, "G-702");
    assert_eq!(failure(&table), "");
    let end = now + THREAD_TIMEOUT + EJECT_TIMEOUT;
    assert_eq!(table.time_passes(end).0, []);
    assert!(failure(&table).contains("held up in the host's kernel"));
}

#[test]
fn a_guest_that_never_looks_does_not_get_it() {
    let now = Instant::now();
    let mut table = table(1, 2);
    assert_eq!(table.offer_now(ONE, now).unwrap().0, OFFERED);
    assert!(table.has_news());
    assert_eq!(table.time_passes(later(now)).0, LEAVES);
    assert_eq!(presence(&table), Presence::Leaving);
    assert!(!table.has_news());
    table.gone(ONE);
    assert_eq!(presence(&table), Presence::Absent);
    assert!(failure(&table).contains("did not look at vCPU 1 within 30 s"));
}

#[test]
fn a_guest_without_ost_has_it_when_it_has_looked() {
    let now = Instant::now();
    let mut table = table(1, 2);
    assert_eq!(table.offer_now(ONE, now).unwrap().0, OFFERED);
    table.acknowledge(ONE, true, false);
    assert!(!table.has_news());
    assert_eq!(presence(&table), Presence::Offered);
    assert_eq!(table.time_passes(later(now)).0, []);
    assert_eq!(presence(&table), Presence::Present);
    assert_eq!(failure(&table), "");
}

#[test]
fn a_guest_that_refuses_a_vcpu_does_not_keep_it() {
    let now = Instant::now();
    let mut table = table(1, 2);
    assert_eq!(table.offer_now(ONE, now).unwrap().0, OFFERED);
    assert_eq!(table.reported(ONE, DEVICE_CHECK, INSERTION_GOES_ON).0, []);
    assert_eq!(presence(&table), Presence::Offered);
    assert_eq!(table.reported(ONE, DEVICE_CHECK, 1).0, LEAVES);
    assert_eq!(presence(&table), Presence::Leaving);
    assert!(failure(&table).contains("_OST status 0x1"));
    // What comes late changes nothing.
    assert_eq!(table.reported(ONE, DEVICE_CHECK, SUCCESS).0, []);
    assert_eq!(table.eject(ONE, now).0, []);
    table.gone(ONE);
    assert_eq!(table.reported(VcpuId(7), DEVICE_CHECK, 1).0, []);
}

/// The uncore PMUs lose a vCPU once, by its thread's end, and by nothing before.
#[test]
fn only_the_end_of_an_ejected_vcpus_thread_departs() {
    let now = Instant::now();
    let mut table = table(2, 2);
    assert_eq!(table.thread_ended(ONE).0, [], "it was not ejected");
    assert_eq!(presence(&table), Presence::Present);
    assert_eq!(table.eject(ONE, now).0, LEAVES);
    assert_eq!(table.thread_ended(ONE).0, [PresenceStep::Depart(ONE)]);
    assert_eq!(table.thread_ended(ONE).0, []);
    assert_eq!(table.joined(ONE, Some(ONE)).0, []);
    assert_eq!(table.thread_ended(ONE).0, []);
}

#[test]
fn the_end_of_the_vm_moves_nothing() {
    let now = Instant::now();
    let mut table = table(3, 4);
    assert_eq!(table.eject(ONE, now).0, LEAVES);
    table.vm_ends();
    for vcpu in (0..4).map(VcpuId) {
        assert_eq!(table.thread_ended(vcpu).0, [], "{vcpu}");
    }
    assert_eq!(table.joined(ONE, None).0, []);
}

/// A thread that panicked has not reported its end.
#[test]
fn a_vcpu_whose_thread_panicked_is_lost() {
    let now = Instant::now();
    let mut table = table(2, 3);
    assert_eq!(table.eject(ONE, now).0, LEAVES);
    assert_eq!(table.joined(ONE, None).0, [PresenceStep::Depart(ONE)]);
    assert_eq!(presence(&table), Presence::Lost);
    let lost = "vCPU 1 is lost: its thread panicked";
    assert_eq!(table.offer_now(ONE, now).unwrap_err().to_string(), lost);
    let error = table.ask_to_leave(ONE, now).unwrap_err();
    assert_eq!(error.to_string(), "vCPU 1 is not plugged in");
    // Of one that dies before it is up, the guest has seen nothing.
    let (start, _) = table.offer(VcpuId(2)).unwrap();
    table.not_started(start, None);
    assert!(table.can_offer(VcpuId(2)).is_err());
}

#[test]
fn a_vcpu_whose_thread_does_not_start_can_be_offered_again() {
    let mut table = table(1, 2);
    let (start, kept) = table.offer(ONE).unwrap();
    assert_eq!(table.flags(ONE), SlotFlags::default());
    assert!(table.can_offer(ONE).is_err(), "it is on its way");
    table.not_started(start, Some(kept));
    assert_eq!(presence(&table), Presence::Absent);
    assert_eq!(table.can_offer(ONE), Ok(()));
}

/// A table behind the registers, and the steps that the guest's writes had.
struct Owner {
    table: Mutex<PresenceTable<VcpuId>>,
    steps: Mutex<Vec<PresenceStep>>,
}

impl Owner {
    fn of(boot: u16, max: u16) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(table(boot, max)),
            steps: Mutex::default(),
        })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, PresenceTable<VcpuId>> {
        self.table.lock().unwrap()
    }
}

impl HotplugOwner for Owner {
    fn flags(&self, vcpu: VcpuId) -> SlotFlags {
        self.table().flags(vcpu)
    }

    fn acknowledged(&self, vcpu: VcpuId, comes: bool, goes: bool) {
        self.table().acknowledge(vcpu, comes, goes);
    }

    fn ejected(&self, vcpu: VcpuId) {
        let steps = self.table().eject(vcpu, Instant::now());
        self.steps.lock().unwrap().extend(steps);
    }

    fn answered(&self, vcpu: VcpuId, answer: GuestAnswer) {
        let steps = self.table().answer(vcpu, answer, Instant::now());
        self.steps.lock().unwrap().extend(steps);
    }
}

fn write(device: &mut CpuHotplug, vcpu: u32, flags: u8) {
    device.write(SELECT, &vcpu.to_le_bytes());
    device.write(FLAGS, &[flags]);
}

fn flags(device: &mut CpuHotplug, vcpu: u32) -> u8 {
    let mut byte = [0];
    device.write(SELECT, &vcpu.to_le_bytes());
    device.read(FLAGS, &mut byte);
    byte[0]
}

/// Guest-contract §7.2, and rule G-701: the guest has seen the request
/// before it ejects.
#[test]
fn a_vcpu_comes_and_goes_through_the_registers() {
    let owner = Owner::of(1, 3);
    let mut device = registers(&owner);
    let there = |device: &mut CpuHotplug| [0, 1, 2, 3, u32::MAX].map(|n| flags(device, n));
    assert_eq!(there(&mut device), [ENABLED, 0, 0, 0, 0]);
    let now = Instant::now();
    let offered = owner.table().offer_now(VcpuId(2), now).unwrap();
    assert_eq!(offered.0.first(), Some(&PresenceStep::Arrive(VcpuId(2))));
    assert_eq!(flags(&mut device, 2), ENABLED | INSERTING);
    write(&mut device, 2, INSERTING);
    assert_eq!(flags(&mut device, 2), ENABLED);
    device.write(OST_EVENT, &1u16.to_le_bytes());
    device.write(OST_STATUS, &0u32.to_le_bytes());
    let asked = owner.table().ask_to_leave(VcpuId(2), now).unwrap();
    assert_eq!(asked.0, [PresenceStep::PulseLine]);
    assert_eq!(flags(&mut device, 2), ENABLED | REMOVING);
    write(&mut device, 2, REMOVING);
    assert_eq!(flags(&mut device, 2), ENABLED);
    assert_eq!(*owner.steps.lock().unwrap(), []);
    write(&mut device, 2, EJECT);
    assert_eq!(flags(&mut device, 2), 0);
    write(&mut device, 2, EJECT);
    let steps = owner.steps.lock().unwrap();
    assert_eq!(*steps, [PresenceStep::StopThread(VcpuId(2))]);
}

/// Rule G-702: CPU 0 cannot go; and what is no register does nothing.
#[test]
fn the_boot_cpu_and_absent_ones_are_not_ejected() {
    let owner = Owner::of(2, 3);
    let mut device = registers(&owner);
    for vcpu in [0, 2, 3, 0x1_0001, u32::MAX] {
        write(&mut device, vcpu, 0xff);
    }
    device.write(SELECT, &1u32.to_le_bytes());
    for (offset, len) in [(1, 1), (4, 4), (5, 1), (6, 1), (8, 1), (8, 2), (11, 1)] {
        assert!(offset < cpu_hotplug::LEN);
        device.write(offset, &vec![0xff; len]);
        let mut data = vec![0xff; len];
        device.read(offset, &mut data);
        assert!(data.iter().all(|&byte| byte == 0), "{offset} {len}");
    }
    assert_eq!(flags(&mut device, 1), ENABLED);
    assert_eq!(*owner.steps.lock().unwrap(), []);
}

/// The registers in front of an owner.
fn registers(owner: &Arc<Owner>) -> CpuHotplug {
    let line = HotplugLine::new().unwrap();
    CpuHotplug::new(Arc::clone(owner) as _, line, CpusConfig::flat(4))
}
