use super::*;

const ONE: VcpuId = VcpuId(1);

fn state(slots: &Slots) -> SlotState {
    slots.report(ONE).unwrap().state
}

fn failure(slots: &Slots) -> String {
    slots.report(ONE).unwrap().failure.unwrap_or_default()
}

fn later(now: Instant) -> Instant {
    now + GUEST_TIME + Duration::from_millis(1)
}

#[test]
fn refusals_name_what_would_do() {
    let now = Instant::now();
    let mut slots = Slots::new(2, 4);
    let no = |outcome: Result<(), Refusal>| outcome.unwrap_err().to_string();
    assert!(no(slots.offer(VcpuId(4), now)).contains("accepted: 0 to 3"));
    assert!(no(slots.ask_back(VcpuId(9), now)).contains("accepted: 0 to 3"));
    assert!(no(slots.ask_back(VcpuId(0), now)).contains("accepted: 1 to 3"));
    assert!(no(slots.offer(ONE, now)).contains("plugged in already"));
    assert!(no(slots.ask_back(VcpuId(2), now)).contains("not plugged in"));
    slots.offer(VcpuId(2), now).unwrap();
    assert!(no(slots.offer(VcpuId(2), now)).contains("being added"));
    assert!(no(slots.ask_back(VcpuId(2), now)).contains("being added"));
    slots.ask_back(ONE, now).unwrap();
    assert!(no(slots.ask_back(ONE, now)).contains("being removed"));
    assert!(slots.eject(ONE));
    assert!(no(slots.ask_back(ONE, now)).contains("thread has not ended"));
    assert!(no(slots.offer(ONE, now)).contains("thread has not ended"));
    slots.gone(ONE);
    assert_eq!(slots.offer(ONE, now), Ok(()));
}

/// Guest-contract §7.4.
#[test]
fn a_guest_that_does_not_let_go_keeps_it_and_may_let_go_later() {
    let now = Instant::now();
    let mut slots = Slots::new(2, 2);
    slots.ask_back(ONE, now).unwrap();
    slots.seen(ONE, false, true);
    assert_eq!(slots.expire(now), []);
    assert_eq!(state(&slots), SlotState::Removing);
    assert_eq!(slots.expire(later(now)), []);
    assert_eq!(state(&slots), SlotState::Present);
    assert!(failure(&slots).contains("did not let vCPU 1 go within 30 s"));
    slots.ask_back(ONE, now).unwrap();
    assert_eq!(failure(&slots), "");
    assert!(!slots.reported(ONE, EJECT_REQUEST, EJECTION_GOES_ON));
    assert_eq!(state(&slots), SlotState::Removing);
    assert!(!slots.reported(ONE, EJECT_REQUEST, DEVICE_BUSY));
    assert_eq!(state(&slots), SlotState::Present);
    assert!(failure(&slots).contains("0x82: device busy"));
    assert!(slots.eject(ONE), "G-702");
    assert_eq!(failure(&slots), "");
    let end = Instant::now() + THREAD_TIME + GUEST_TIME;
    assert_eq!(slots.expire(end), []);
    assert!(failure(&slots).contains("full console pipe"));
}

#[test]
fn a_guest_that_never_looks_does_not_get_it() {
    let now = Instant::now();
    let mut slots = Slots::new(1, 2);
    slots.offer(ONE, now).unwrap();
    assert!(slots.has_news());
    assert_eq!(slots.expire(later(now)), [ONE]);
    assert_eq!(state(&slots), SlotState::Ejecting);
    assert!(!slots.has_news());
    slots.gone(ONE);
    assert_eq!(state(&slots), SlotState::Absent);
    assert!(failure(&slots).contains("did not look at vCPU 1 within 30 s"));
}

#[test]
fn a_guest_without_ost_has_it_when_it_has_looked() {
    let now = Instant::now();
    let mut slots = Slots::new(1, 2);
    slots.offer(ONE, now).unwrap();
    slots.seen(ONE, true, false);
    assert!(!slots.has_news());
    assert_eq!(state(&slots), SlotState::Inserting);
    assert_eq!(slots.expire(later(now)), []);
    assert_eq!(state(&slots), SlotState::Present);
    assert_eq!(failure(&slots), "");
}

#[test]
fn a_guest_that_refuses_a_vcpu_does_not_keep_it() {
    let now = Instant::now();
    let mut slots = Slots::new(1, 2);
    slots.offer(ONE, now).unwrap();
    assert!(!slots.reported(ONE, DEVICE_CHECK, INSERTION_GOES_ON));
    assert_eq!(state(&slots), SlotState::Inserting);
    assert!(slots.reported(ONE, DEVICE_CHECK, 1));
    assert_eq!(state(&slots), SlotState::Ejecting);
    assert!(failure(&slots).contains("_OST status 0x1"));
    // What comes late changes nothing.
    assert!(!slots.reported(ONE, DEVICE_CHECK, SUCCESS));
    assert!(!slots.eject(ONE));
    slots.gone(ONE);
    assert!(!slots.reported(VcpuId(7), DEVICE_CHECK, 1));
}
