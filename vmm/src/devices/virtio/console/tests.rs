use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::testing::{BUFFERS, TestDriver, wait};
use super::super::{Threaded, VirtioDevice};
use super::*;

/// Bytes of an input buffer, as Linux has them.
const PAGE: u32 = 4096;

/// A driver that has found all ports.
struct Guest {
    device: Threaded<VirtioConsole>,
    handle: ConsoleHandle,
    driver: TestDriver,
    messages: Vec<(u32, u16, u16, Vec<u8>)>,
}

impl Guest {
    fn new(ports: Vec<ConsolePort>) -> Self {
        let (device, handle) = VirtioConsole::new(ports, (80, 25)).unwrap();
        let mut device = Threaded::new(device);
        let mut driver = TestDriver::new(device.queue_sizes());
        let features = device.features();
        driver.activate(&mut device, features).unwrap();
        let mut guest = Self {
            device,
            handle,
            driver,
            messages: Vec::new(),
        };
        for slot in 0..u64::from(QUEUE_SIZE) {
            guest.driver.queues[2].add(&[(BUFFERS + slot * 64, 64, true)]);
        }
        guest.driver.queues[2].kick();
        guest
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        let address = BUFFERS + 0x8000;
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.driver.put(address, &message);
        let queue = &mut self.driver.queues[3];
        queue.add(&[(address, 8, false)]);
        queue.kick();
        queue.wait_used().unwrap();
    }

    /// Waits for a message to the driver.
    fn hear(&mut self, id: u32, event: u16) -> (u16, Vec<u8>) {
        wait(|| {
            while let Some((head, len)) = self.driver.queues[2].used() {
                let address = BUFFERS + u64::from(head) * 64;
                let bytes = self.driver.bytes(address, len as usize);
                let id = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                let event = u16::from_le_bytes(bytes[4..6].try_into().unwrap());
                let value = u16::from_le_bytes(bytes[6..8].try_into().unwrap());
                self.messages.push((id, event, value, bytes[8..].to_vec()));
            }
            let at = self
                .messages
                .iter()
                .position(|message| (message.0, message.1) == (id, event))?;
            let (_, _, value, more) = self.messages.remove(at);
            Some((value, more))
        })
        .unwrap()
    }

    /// Finds and opens every port.
    fn open_all(&mut self, count: u32) {
        self.say(0, 0, 1);
        for id in 0..count {
            self.hear(id, 1);
            self.say(id, 3, 1);
            self.hear(id, 7);
            self.say(id, 6, 1);
        }
    }

    /// Offers empty buffers to a port.
    fn offer_input(&mut self, port: usize, count: u64) {
        let queue = &mut self.driver.queues[port_queues(port).0];
        for slot in 0..count {
            let address = BUFFERS + 0x10_0000 + slot * u64::from(PAGE);
            queue.add(&[(address, PAGE, true)]);
        }
        queue.kick();
    }

    fn wait_input(&mut self, port: usize) -> Vec<u8> {
        let queue = &mut self.driver.queues[port_queues(port).0];
        let (head, len) = queue.wait_used().unwrap();
        let address = BUFFERS + 0x10_0000 + u64::from(head) * u64::from(PAGE);
        self.driver.bytes(address, len as usize)
    }

    fn print(&mut self, port: usize, bytes: &[u8]) {
        let address = BUFFERS + 0x40_0000;
        self.driver.put(address, bytes);
        let queue = &mut self.driver.queues[port_queues(port).1];
        let len = u32::try_from(bytes.len()).unwrap();
        queue.add(&[(address, len, false)]);
        queue.kick();
    }
}

fn pipe_in(bytes: &[u8]) -> (Option<OwnedFd>, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(bytes).unwrap();
    (Some(reader.into()), writer)
}

#[test]
fn the_configuration_has_the_size_and_the_number_of_ports() {
    let ports = || ConsolePort::stream("x", None, None).unwrap();
    let (device, handle) = VirtioConsole::new(vec![ports(), ports()], (80, 25)).unwrap();
    assert_eq!(device.queue_sizes(), [64; 6]);
    let mut config = [0xff; 16];
    device.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    handle.resize(0x102, 50);
    let mut config = [0xff; 3];
    device.read_config(1, &mut config);
    assert_eq!(config, [1, 50, 0]);
    device.read_config(u64::MAX, &mut config);
    assert_eq!(config, [0; 3]);
    assert!(VirtioConsole::new(Vec::new(), (0, 0)).is_err());
}

#[test]
fn a_port_is_open_before_it_has_its_name() {
    let (input, _writer) = pipe_in(b"");
    let ports = vec![
        ConsolePort::console("console", None, None).unwrap(),
        ConsolePort::stream("stdin", input, None).unwrap(),
    ];
    let mut guest = Guest::new(ports);
    guest.say(0, 0, 1);
    guest.hear(1, 1);
    guest.say(0, 3, 1);
    guest.say(1, 3, 1);
    let (_, name) = guest.hear(1, 7);
    assert_eq!(name, b"stdin");
    // It stands before the name, in the order of arrival.
    let open = guest
        .messages
        .iter()
        .find(|told| (told.0, told.1) == (1, 6));
    assert_eq!(open.unwrap().2, 1);
    assert_eq!(guest.hear(0, 4).0, 1);
}

#[test]
fn input_comes_after_the_open_and_ends_with_a_close() {
    let (input, writer) = pipe_in(b"hello");
    let mut guest = Guest::new(vec![ConsolePort::stream("in", input, None).unwrap()]);
    guest.offer_input(0, 4);
    guest.open_all(1);
    assert_eq!(guest.hear(0, 6).0, 1);
    assert_eq!(guest.wait_input(0), b"hello");
    drop(writer);
    assert_eq!(guest.hear(0, 6).0, 0);
    assert!(!guest.driver.interrupt.is_broken());
}

#[test]
fn bytes_without_a_buffer_wait_in_the_pipe() {
    let sent: Vec<u8> = (0..60_000_u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
    let (input, mut writer) = pipe_in(&[]);
    let source = sent.clone();
    let feeder = std::thread::spawn(move || writer.write_all(&source).unwrap());
    let mut guest = Guest::new(vec![ConsolePort::stream("in", input, None).unwrap()]);
    guest.open_all(1);
    let mut got = Vec::new();
    while got.len() < sent.len() {
        guest.offer_input(0, 1);
        let queue = &mut guest.driver.queues[0];
        let (head, len) = queue.wait_used().unwrap();
        let _ = head;
        got.extend(guest.driver.bytes(BUFFERS + 0x10_0000, len as usize));
    }
    feeder.join().unwrap();
    assert_eq!(got, sent);
}

#[test]
fn output_that_nobody_reads_waits_in_the_guest() {
    let (mut reader, writer) = io::pipe().unwrap();
    let port = ConsolePort::stream("out", None, Some(writer.into())).unwrap();
    let mut guest = Guest::new(vec![port]);
    guest.open_all(1);
    let bytes: Vec<u8> = (0..400_000_u32).map(|i| (i / 3).to_le_bytes()[0]).collect();
    guest.print(0, &bytes);
    guest.say(0, 6, 0);
    // The pipe is full, and everything else goes on: a message was heard.
    assert_eq!(guest.driver.queues[1].used(), None);
    assert!(!guest.handle.flush(Duration::from_millis(20)));
    guest.device.pause();
    guest.device.resume();
    let mut got = Vec::new();
    // To its end: the guest has closed the port.
    reader.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    assert!(guest.driver.queues[1].wait_used().is_some());
    assert!(guest.handle.flush(Duration::from_secs(60)));
}

#[test]
fn a_reader_that_has_gone_closes_the_port() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let port = ConsolePort::stream(
        "x",
        Some(ours.try_clone().unwrap().into()),
        Some(ours.into()),
    );
    let mut guest = Guest::new(vec![port.unwrap()]);
    guest.open_all(1);
    guest.offer_input(0, 1);
    assert_eq!(guest.hear(0, 6).0, 1);
    drop(theirs);
    assert_eq!(guest.hear(0, 6).0, 0);
    // What is printed now is dropped, and does not stand in the queue.
    guest.print(0, b"late");
    assert!(guest.driver.queues[1].wait_used().is_some());
}

/// Linux without `VIRTIO_CONSOLE_F_MULTIPORT` reads the size when the configuration
/// changes; of the control message it takes rows or columns first, as its version wants.
#[test]
fn a_terminal_has_its_size_in_the_configuration() {
    let port = ConsolePort::console("c", None, None).unwrap();
    let (device, handle) = VirtioConsole::new(vec![port], (100, 40)).unwrap();
    assert_eq!(device.features() & (F_SIZE | F_MULTIPORT), F_SIZE);
    let mut device = Threaded::new(device);
    assert_eq!(device.queue_sizes(), [64; 2]);
    let mut driver = TestDriver::new(device.queue_sizes());
    let features = device.features();
    driver.activate(&mut device, features).unwrap();
    let size = |device: &Threaded<VirtioConsole>| {
        let mut config = [0; 8];
        device.read_config(0, &mut config);
        config
    };
    assert_eq!(driver.interrupt.generation(), 1, "the size of the start");
    assert_eq!(size(&device), [100, 0, 40, 0, 0, 0, 0, 0]);
    handle.resize(132, 43);
    assert_eq!(driver.interrupt.generation(), 2);
    assert_eq!(size(&device)[..4], [132, 0, 43, 0]);
}

#[test]
fn a_driver_without_ports_has_one_console() {
    let (mut reader, writer) = io::pipe().unwrap();
    let port = ConsolePort::console("c", None, Some(writer.into())).unwrap();
    let (device, handle) = VirtioConsole::new(vec![port], (0, 0)).unwrap();
    let mut device = Threaded::new(device);
    let mut driver = TestDriver::new(device.queue_sizes());
    driver.activate(&mut device, 0).unwrap();
    driver.put(BUFFERS, b"boot\n");
    driver.queues[1].add(&[(BUFFERS, 5, false)]);
    driver.queues[1].kick();
    assert!(handle.flush(Duration::from_secs(60)));
    drop(device);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "boot\n");
}

#[test]
fn streams_outlive_a_reset_of_the_driver() {
    let (input, mut writer) = pipe_in(b"");
    let mut guest = Guest::new(vec![ConsolePort::stream("in", input, None).unwrap()]);
    guest.open_all(1);
    guest.device.reset();
    let ports = std::mem::take(&mut guest.device.device().ports);
    let mut guest = Guest::new(ports);
    guest.open_all(1);
    writer.write_all(b"again").unwrap();
    guest.offer_input(0, 1);
    assert_eq!(guest.wait_input(0), b"again");
}

#[test]
fn a_limit_drops_what_goes_beyond_it() {
    let (mut reader, writer) = io::pipe().unwrap();
    let port = ConsolePort::stream("out", None, Some(writer.into())).unwrap();
    let mut guest = Guest::new(vec![port.limit_output(3)]);
    guest.open_all(1);
    guest.print(0, b"abcdef");
    guest.driver.queues[1].wait_used().unwrap();
    guest.say(0, 6, 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
}

#[test]
fn a_missing_control_queue_is_refused() {
    let port = ConsolePort::stream("c", None, None).unwrap();
    let (device, _) = VirtioConsole::new(vec![port], (0, 0)).unwrap();
    let mut device = Threaded::new(device);
    let mut driver = TestDriver::new(&[64; 2]);
    let features = device.features();
    let error = driver.activate(&mut device, features).unwrap_err();
    assert!(matches!(error, ActivateError::MissingQueue(2)));
    // As after a reset: the ports are still there.
    let mut driver = TestDriver::new(device.queue_sizes());
    driver.activate(&mut device, features).unwrap();
}

/// Each of them is a fault of the driver: the device asks for a reset, and works again
/// after it.
#[test]
fn hostile_chains_break_the_device_until_its_reset() {
    use super::super::testing::{INDIRECT, NEXT, RAM, TestQueue, WRITE};
    type Hostile = fn(&mut TestQueue);
    let cases: [(&str, Hostile); 8] = [
        ("a loop", |queue| {
            queue.descriptor(0, BUFFERS, 1, NEXT, 0);
            queue.offer(0);
        }),
        ("outside of RAM", |queue| {
            queue.add(&[(RAM - 4, 8, false)]);
        }),
        ("an address that overflows", |queue| {
            queue.add(&[(u64::MAX - 1, 8, false)]);
        }),
        ("a head outside of the table", |queue| queue.offer(64)),
        ("more chains than the queue has", |queue| {
            queue.set_available(1000)
        }),
        ("readable behind writable", |queue| {
            queue.add(&[(BUFFERS, 8, true), (BUFFERS, 8, false)]);
        }),
        ("a table in a table", |queue| {
            let mut inner = BUFFERS.to_le_bytes().to_vec();
            inner.extend(16_u32.to_le_bytes());
            inner.extend([4, 0, 0, 0]);
            queue.write(BUFFERS, &inner);
            queue.descriptor(0, BUFFERS, 16, INDIRECT, 0);
            queue.offer(0);
        }),
        ("4 GiB", |queue| {
            queue.descriptor(0, 0, u32::MAX, NEXT | WRITE, 1);
            queue.descriptor(1, 0, u32::MAX, WRITE, 0);
            queue.offer(0);
        }),
    ];
    for (what, hostile) in cases {
        for number in [1, 3] {
            let ports = vec![
                ConsolePort::console("c", None, None).unwrap(),
                ConsolePort::stream("s", None, None).unwrap(),
            ];
            let mut guest = Guest::new(ports);
            hostile(&mut guest.driver.queues[number]);
            guest.driver.queues[number].kick();
            assert!(guest.driver.wait_until_broken(), "{what} in queue {number}");
            guest.device.pause();
            guest.device.resume();
            guest.device.reset();
            let features = guest.device.features();
            guest.driver.activate(&mut guest.device, features).unwrap();
            guest.say(0, 0, 1);
            assert!(!guest.driver.interrupt.is_broken(), "{what}");
        }
    }
}

/// Half of what a guest has sent is with the host when it is saved; the rest comes from
/// the next device, and nothing twice.
#[test]
fn a_port_goes_on_in_the_middle_of_a_chain() {
    let stream = || {
        let (reader, writer) = io::pipe().unwrap();
        let port = ConsolePort::stream("out", None, Some(writer.into())).unwrap();
        (reader, vec![port])
    };
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut first, ports) = stream();
    let mut guest = Guest::new(ports);
    guest.open_all(1);
    assert_eq!(guest.hear(0, 6).0, 1);
    guest.print(0, &bytes);
    let mut got = vec![0; 100_000];
    first.read_exact(&mut got).unwrap();
    guest.device.pause();
    let saved = guest.device.save().unwrap();
    let features = guest.device.features();
    drop(guest.device);
    first.read_to_end(&mut got).unwrap();
    assert!(got.len() < bytes.len());

    let (mut second, ports) = stream();
    let (device, handle) = VirtioConsole::new(ports, (80, 25)).unwrap();
    let mut device = Threaded::new(device);
    let activation = guest.driver.activation_of(features, &saved.queues);
    device.restore(&saved.state, Some(activation)).unwrap();
    let mut guest = Guest {
        device,
        handle,
        ..guest
    };
    guest.device.resume();
    let more = bytes.len() - got.len();
    let mut rest = vec![0; more];
    second.read_exact(&mut rest).unwrap();
    got.extend(rest);
    assert!(got == bytes);
    // The guest closes the port: it still has it open.
    guest.say(0, 6, 0);
    assert_eq!(second.read_to_end(&mut got).unwrap(), 0);
    assert_eq!(guest.hear(0, 6).0, 0);
}

#[test]
fn a_console_of_other_ports_or_damaged_bytes_is_refused() {
    let ports = |count| (0..count).map(|_| ConsolePort::stream("x", None, None).unwrap());
    let mut guest = Guest::new(ports(2).collect());
    guest.device.pause();
    let saved = guest.device.save().unwrap();
    for (count, state, expected) in [
        (3, &saved.state[..], "number of ports"),
        (2, &saved.state[1..], "damaged"),
        (2, &[], "damaged"),
    ] {
        let (device, _handle) = VirtioConsole::new(ports(count).collect(), (0, 0)).unwrap();
        let mut device = Threaded::new(device);
        let mut driver = TestDriver::new(device.queue_sizes());
        let activation = driver.activation(device.features());
        let fault = device.restore(state, Some(activation)).unwrap_err();
        assert!(fault.to_string().contains(expected), "{fault}");
    }
    let (device, _handle) = VirtioConsole::new(ports(1).collect(), (0, 0)).unwrap();
    assert!(Threaded::new(device).restore(&saved.state, None).is_err());
}
