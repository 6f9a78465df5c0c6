//! The front end against a back end of the test's own.

mod driver;
mod fake;
mod storage_daemon;
mod virtiofsd;

use std::sync::Arc;
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use self::fake::{Answer, Fake, Request, memory};
use super::connection::BackendConnection;
use super::fault::BackendFault;
use super::{Backend, BackendKind, VhostUserDevice};
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, ConfigInterrupt, VirtioDevice,
};
use crate::stop::StopSignal;
use crate::sys::guest_ram::GuestRam;

fn fs() -> BackendKind {
    BackendKind::Fs {
        tag: "share".into(),
    }
}

fn queue(index: u16, at: u32) -> ActiveQueue {
    let mut queue = Queue::new(1024).unwrap();
    queue.set_size(16);
    queue.set_desc_table_address(Some(at), Some(0));
    queue.set_avail_ring_address(Some(at + 0x1000), Some(0));
    queue.set_used_ring_address(Some(at + 0x2000), Some(0));
    queue.set_ready(true);
    ActiveQueue {
        index,
        queue,
        kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        call: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
    }
}

fn activation(memory: &GuestRam, features: u64, queues: Vec<ActiveQueue>) -> Activation {
    Activation {
        memory: memory.clone(),
        features,
        queues,
        config_interrupt: ConfigInterrupt::new(EventFd::new(0).unwrap()),
    }
}

fn connect(
    fake: &mut Fake,
    kind: BackendKind,
) -> (Result<VhostUserDevice, String>, Arc<StopSignal>) {
    let stop = Arc::new(StopSignal::new().unwrap());
    let backend = Backend {
        flag: "--fs tag=share".into(),
        socket: fake.socket(),
        process: None,
    };
    let device = VhostUserDevice::connect(backend, kind, &stop).map_err(|error| error.to_string());
    (device, stop)
}

/// The text of the reason why the VM stops, when it does.
fn stopped(stop: &StopSignal) -> String {
    loop {
        if let Some(reason) = stop.reason() {
            return reason.to_string();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_device_shows_its_configuration_and_the_features_of_its_kind() {
    let mut fake = Fake::serving(|_| None);
    let device = connect(&mut fake, fs()).0.unwrap();
    assert_eq!(device.queue_sizes(), [1024, 1024]);
    // Of the back end's features: no packed queues, no log, no protocol features.
    assert_eq!(device.features(), 1 << 28 | 1 << 29 | 1 << 32);
    let mut config = [0xff; 44];
    device.read_config(0, &mut config);
    assert_eq!(&config[..6], b"share\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    device.read_config(u64::MAX, &mut config);
    assert_eq!(config, [0; 44]);
}

#[test]
fn a_disk_has_the_configuration_of_its_back_end() {
    let mut fake = Fake::serving(|request| {
        let Request {
            code: fake::GET_CONFIG,
            body,
        } = request
        else {
            return None;
        };
        let mut body = body.clone();
        body[12..20].copy_from_slice(&8192_u64.to_le_bytes());
        body[12 + 34..12 + 36].copy_from_slice(&5_u16.to_le_bytes());
        Some(Answer::Body(body))
    });
    let device = connect(&mut fake, BackendKind::Block).0.unwrap();
    let mut sectors = [0; 8];
    device.read_config(0, &mut sectors);
    assert_eq!(u64::from_le_bytes(sectors), 8192);
    // The fake back end says that it serves three queues.
    assert_eq!(device.queue_sizes().len(), 3);
    let mut queues = [0; 2];
    device.read_config(34, &mut queues);
    assert_eq!(queues, [3, 0]);
}

#[test]
fn a_card_has_our_address_and_no_control_queue() {
    let mut fake = Fake::serving(|_| None);
    let mac = [2, 3, 4, 5, 6, 7];
    let device = connect(&mut fake, BackendKind::Net { mac }).0.unwrap();
    let mut config = [0; 6];
    device.read_config(0, &mut config);
    assert_eq!(config, mac);
    assert_eq!(device.features() & (1 << 5 | 1 << 17 | 1 << 22), 1 << 5);
}

#[test]
fn queues_are_given_stopped_and_given_again() {
    let mut fake = Fake::serving(|_| None);
    let mut device = connect(&mut fake, fs()).0.unwrap();
    let memory = memory();
    let queues = vec![queue(0, 0x10000), queue(1, 0x20000)];
    let kick = queues[1].kick.try_clone().unwrap();
    fake.forget();
    device
        .activate(activation(&memory, u64::MAX, queues))
        .unwrap();
    assert_eq!(kick.read().unwrap(), 1, "a ring starts at a kick");
    // Only what the back end offers, and the protocol features.
    assert_eq!(fake.number(fake::SET_FEATURES), fake::FEATURES);
    let told = fake.body(fake::SET_MEM_TABLE);
    assert_eq!(told[..4], 1_u32.to_le_bytes());
    // Guest address 0, all bytes, at an address that is not ours.
    let base = u64::from_le_bytes(told[24..32].try_into().unwrap());
    let ours = memory.get_host_address(GuestAddress(0)).unwrap();
    assert_ne!(base, u64::try_from(ours.addr()).unwrap());
    let address = fake.bodies(fake::SET_VRING_ADDR)[1].clone();
    let at = |n: usize| u64::from_le_bytes(address[n..n + 8].try_into().unwrap()) - base;
    assert_eq!([at(8), at(16), at(24)], [0x20000, 0x22000, 0x21000]);
    assert_eq!(fake.bases(), [(0, 0), (1, 0)]);

    device.pause();
    device.pause();
    assert_eq!(fake.count(fake::GET_VRING_BASE), 2);
    device.resume();
    device.resume();
    // The fake back end stopped at entry 7.
    assert_eq!(fake.bases(), [(0, 0), (1, 0), (0, 7), (1, 7)]);
    assert_eq!(kick.read().unwrap(), 1);
    device.reset();
    device.reset();
    device.resume();
    device.pause();
    assert_eq!(fake.count(fake::GET_VRING_BASE), 4);
    let again = vec![queue(0, 0x10000), queue(1, 0x20000)];
    device
        .activate(activation(&memory, u64::MAX, again))
        .unwrap();
    assert_eq!(fake.bases()[4..], [(0, 0), (1, 0)]);
}

/// The driver chooses which queues there are, and where: neither ends the VM.
#[test]
fn a_hostile_driver_loses_its_device_only() {
    let mut fake = Fake::serving(|_| None);
    let (device, stop) = connect(&mut fake, fs());
    let mut device = device.unwrap();
    let memory = memory();
    let alone = activation(&memory, 0, vec![queue(0, 0x10000)]);
    assert!(matches!(
        device.activate(alone).unwrap_err(),
        ActivateError::MissingQueue(1)
    ));
    for at in [0x3f_f000, 0x40_0000, 0xffff_0000] {
        let queues = vec![queue(0, 0x10000), queue(1, at)];
        let error = device.activate(activation(&memory, 0, queues)).unwrap_err();
        let text = crate::error_text::one_line(&error);
        assert!(
            text.contains("queue 1 is not in the guest's memory"),
            "{text}"
        );
        device.reset();
    }
    let queues = vec![queue(0, 0x10000), queue(1, 0x20000)];
    device.activate(activation(&memory, 0, queues)).unwrap();
    assert!(stop.reason().is_none());
}

#[test]
fn a_back_end_that_is_for_something_else_is_refused() {
    type Script = fn(&Request) -> Option<Answer>;
    let cases: [(Script, BackendKind, &str); 7] = [
        (
            |r| (r.code == fake::GET_FEATURES).then_some(Answer::Number(1 << 30)),
            fs(),
            "it has no devices of virtio 1",
        ),
        (
            |r| (r.code == fake::GET_FEATURES).then_some(Answer::Number(1 << 32)),
            fs(),
            "it has no protocol features",
        ),
        (
            |r| (r.code == fake::GET_QUEUE_NUM).then_some(Answer::Number(1)),
            fs(),
            "it serves 1 queues, 2 are needed",
        ),
        (
            |r| (r.code == fake::GET_PROTOCOL_FEATURES).then_some(Answer::Number(1)),
            BackendKind::Block,
            "it has no configuration of the device",
        ),
        (
            |r| (r.code == fake::GET_FEATURES).then_some(Answer::Raw(vec![0xa5; 20])),
            fs(),
            "no valid answer when asked to tell its features",
        ),
        (
            |r| (r.code == fake::GET_QUEUE_NUM).then_some(Answer::Number(u64::MAX)),
            fs(),
            "no valid answer when asked to tell its number of queues",
        ),
        (
            |r| (r.code == fake::GET_CONFIG).then_some(Answer::Body(vec![0; 72])),
            BackendKind::Block,
            "tell its configuration",
        ),
    ];
    for (script, kind, text) in cases {
        let mut fake = Fake::serving(script);
        let error = connect(&mut fake, kind).0.unwrap_err();
        assert!(
            error.starts_with("--fs tag=share: the back end: "),
            "{error}"
        );
        assert!(error.contains(text), "{error}");
    }
}

/// At each request: it closes, says no, or talks nonsense. The VM ends with a reason.
#[test]
fn a_back_end_that_fails_ends_the_vm() {
    let memory = memory();
    for code in [
        fake::SET_FEATURES,
        fake::SET_MEM_TABLE,
        fake::SET_VRING_ADDR,
        fake::SET_VRING_KICK,
        fake::SET_VRING_ENABLE,
        fake::GET_VRING_BASE,
    ] {
        for (fault, text) in [
            (Answer::Close, "it closed the connection"),
            (Answer::Half, "it closed the connection"),
            (Answer::Number(1), "it refused to"),
            (Answer::Raw(vec![0xa5; 64]), "it gave no valid answer"),
        ] {
            // A number is what it is asked for there.
            if code == fake::GET_VRING_BASE && matches!(fault, Answer::Number(_)) {
                continue;
            }
            let of_script = fault.clone();
            let mut fake = Fake::serving(move |r| (r.code == code).then(|| of_script.clone()));
            let (device, stop) = connect(&mut fake, fs());
            let mut device = device.unwrap();
            let queues = vec![queue(0, 0x10000), queue(1, 0x20000)];
            let activated = device.activate(activation(&memory, 0, queues));
            if code == fake::GET_VRING_BASE {
                activated.unwrap();
                device.pause();
                device.resume();
            } else {
                activated.unwrap_err();
            }
            device.reset();
            let reason = stopped(&stop);
            assert!(
                reason.starts_with("--fs tag=share: the back end: "),
                "{reason}"
            );
            assert!(reason.contains(text), "{code} {fault:?}: {reason}");
        }
    }
}

#[test]
fn a_back_end_that_dies_while_the_guest_runs_ends_the_vm() {
    let mut fake = Fake::serving(|_| None);
    let (device, stop) = connect(&mut fake, fs());
    let mut device = device.unwrap();
    let queues = vec![queue(0, 0x10000), queue(1, 0x20000)];
    device.activate(activation(&memory(), 0, queues)).unwrap();
    assert!(stop.reason().is_none());
    fake.die();
    assert_eq!(
        stopped(&stop),
        "--fs tag=share: the back end: it closed the connection; the guest cannot go on without it"
    );
    device.pause();
    device.resume();
    device.reset();
}

#[test]
fn a_back_end_that_does_not_answer_is_not_waited_for_for_ever() {
    for silent in [
        fake::GET_FEATURES,
        fake::SET_PROTOCOL_FEATURES,
        fake::GET_QUEUE_NUM,
    ] {
        let mut fake = Fake::serving(move |r| (r.code >= silent).then_some(Answer::Silence));
        let time = Duration::from_millis(20);
        let result = BackendConnection::open_within(fake.socket(), &fs(), time);
        // Only an answer is missed: the protocol features need none.
        let fault = result.map(|_| ()).unwrap_err();
        assert!(matches!(fault, BackendFault::Silent { .. }), "{fault}");
    }
}
