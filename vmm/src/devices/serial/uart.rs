//! The registers of a 16550A, without the world around them ("PC16550D Universal
//! Asynchronous Receiver/Transmitter with FIFOs", National Semiconductor, §8).
//!
//! An interrupt is a condition, not an event: received bytes are one for as long as
//! a byte is unread. So a driver that leaves its handler early finds the rest.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that wait for the guest, at most.
const FIFO_SIZE: usize = 64;

/// RBR and THR; the divisor's low byte while LCR says so.
const DATA: u64 = 0;
/// IER; the divisor's high byte while LCR says so.
const INTERRUPT_ENABLE: u64 = 1;
/// IIR for reads, FCR for writes.
const INTERRUPT_ID: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const MODEM_STATUS: u64 = 6;
const SCRATCH: u64 = 7;

/// IER: bytes were received.
const IER_RECEIVED: u8 = 1 << 0;
/// IER: the transmitter is empty.
const IER_SENT: u8 = 1 << 1;
/// IER: the bits that exist.
const IER_BITS: u8 = 0x0f;
/// IIR: the causes in the order of their priority, and none.
const IIR_RECEIVED: u8 = 4;
const IIR_SENT: u8 = 2;
const IIR_NONE: u8 = 1;
/// IIR: the FIFOs are on.
const IIR_FIFOS: u8 = 0xc0;
/// FCR: switches the FIFOs on.
const FCR_ENABLE: u8 = 1 << 0;
/// LCR: offsets 0 and 1 are the divisor.
const LCR_DIVISOR: u8 = 1 << 7;
/// MCR: the bits that exist.
const MCR_BITS: u8 = 0x1f;
/// MCR: what is sent is received, and the control lines are the status lines.
const MCR_LOOP: u8 = 1 << 4;
/// LSR: a byte can be read.
const LSR_READY: u8 = 1 << 0;
/// LSR: the transmitter takes bytes, always.
const LSR_SENT: u8 = 0x60;
/// MSR: the other end is there and ready (CTS, DSR, DCD).
const MSR_CONNECTED: u8 = 0xb0;

/// The state of one UART.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Uart {
    received: VecDeque<u8>,
    /// The guest has not been told yet that the transmitter is empty.
    sent: bool,
    /// IIR bits of the causes at the last look: a new one pulls the line.
    causes: u8,
    interrupt_enable: u8,
    fifos: bool,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl Default for Uart {
    /// As after a reset; 9600 baud.
    fn default() -> Self {
        Self {
            received: VecDeque::with_capacity(FIFO_SIZE),
            sent: false,
            causes: 0,
            interrupt_enable: 0,
            fifos: false,
            line_control: 3,
            modem_control: 1 << 3,
            scratch: 0,
            divisor: [12, 0],
        }
    }
}

impl Uart {
    /// Goes on as `saved`, whose FIFO may be no longer than ours.
    pub(super) fn go_on_as(&mut self, mut saved: Self) {
        saved.received.truncate(FIFO_SIZE);
        *self = saved;
    }

    /// How many bytes [`Uart::receive`] would take now.
    pub(super) fn room(&self) -> usize {
        if self.is_looped() {
            return 0;
        }
        FIFO_SIZE.saturating_sub(self.received.len())
    }

    /// Takes bytes from the line, as many as the FIFO holds. Returns how many were
    /// too many.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes
            .len()
            .min(FIFO_SIZE.saturating_sub(self.received.len()));
        self.received.extend(bytes.iter().take(taken));
        bytes.len() - taken
    }

    /// Whether the guest has read everything, and can be sent more.
    pub(super) fn is_drained(&self) -> bool {
        self.received.is_empty() && !self.is_looped()
    }

    /// Whether there is a cause for an interrupt that there was not at the last
    /// call. To be asked after each access, and after bytes were received.
    pub(super) fn interrupts(&mut self) -> bool {
        let pending = self.pending();
        let before = std::mem::replace(&mut self.causes, pending);
        pending & !before != 0
    }

    /// Reads a register.
    pub(super) fn read(&mut self, offset: u64) -> u8 {
        match offset {
            DATA if self.is_divisor() => self.divisor[0],
            INTERRUPT_ENABLE if self.is_divisor() => self.divisor[1],
            DATA => self.received.pop_front().unwrap_or_default(),
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => self.identify() | if self.fifos { IIR_FIFOS } else { 0 },
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS if self.received.is_empty() => LSR_SENT,
            LINE_STATUS => LSR_SENT | LSR_READY,
            MODEM_STATUS => self.modem_status(),
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    /// Writes a register. Returns the byte that goes out, if one does.
    pub(super) fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        match offset {
            DATA if self.is_divisor() => self.divisor[0] = value,
            INTERRUPT_ENABLE if self.is_divisor() => self.divisor[1] = value,
            DATA => return self.send(value),
            INTERRUPT_ENABLE => {
                let enabled = value & !self.interrupt_enable;
                self.interrupt_enable = value & IER_BITS;
                // The transmitter is empty all the time.
                self.sent |= enabled & IER_SENT != 0;
            }
            // The guest's driver clears the FIFOs when it opens the port. What was
            // typed before is not lost by it.
            INTERRUPT_ID => self.fifos = value & FCR_ENABLE != 0,
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & MCR_BITS,
            SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }

    /// A byte from the guest: out, or back to the guest.
    fn send(&mut self, byte: u8) -> Option<u8> {
        self.sent = true;
        // The next cause is a new one: this byte's.
        self.causes &= !IIR_SENT;
        if !self.is_looped() {
            return Some(byte);
        }
        if self.received.len() < FIFO_SIZE {
            self.received.push_back(byte);
        }
        None
    }

    /// The cause of the highest priority. To be told of the transmitter is to
    /// have dealt with it.
    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        if pending & IIR_RECEIVED != 0 {
            return IIR_RECEIVED;
        }
        if pending & IIR_SENT != 0 {
            self.sent = false;
            return IIR_SENT;
        }
        IIR_NONE
    }

    /// The IIR bits of all causes that are enabled.
    fn pending(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        let received = enabled(IER_RECEIVED) && !self.received.is_empty();
        let sent = enabled(IER_SENT) && self.sent;
        (if received { IIR_RECEIVED } else { 0 }) | (if sent { IIR_SENT } else { 0 })
    }

    fn modem_status(&self) -> u8 {
        if !self.is_looped() {
            return MSR_CONNECTED;
        }
        // DTR, RTS, OUT1 and OUT2 show as DSR, CTS, RI and DCD.
        let [dtr, rts, outs] = [1, 2, 12].map(|bits| self.modem_control & bits);
        dtr << 5 | rts << 3 | outs << 4
    }

    const fn is_looped(&self) -> bool {
        self.modem_control & MCR_LOOP != 0
    }

    const fn is_divisor(&self) -> bool {
        self.line_control & LCR_DIVISOR != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot's FIFO is no longer than ours, whatever its file says.
    #[test]
    fn a_saved_uart_goes_on_and_has_no_longer_fifo() {
        let mut uart = Uart::default();
        uart.write(SCRATCH, 0x5a);
        uart.write(INTERRUPT_ENABLE, IER_RECEIVED);
        uart.receive(b"ab");
        assert!(uart.interrupts());
        let bytes = postcard::to_allocvec(&uart).unwrap();
        let mut other = Uart::default();
        other.go_on_as(postcard::from_bytes(&bytes).unwrap());
        assert_eq!((other.read(SCRATCH), other.read(DATA)), (0x5a, b'a'));
        assert!(!other.interrupts(), "the guest has been told");
        let mut long = Uart::default();
        long.received.extend([0; 200]);
        other.go_on_as(long);
        assert_eq!((other.received.len(), other.room()), (FIFO_SIZE, 0));
    }

    /// The causes that IIR names, until it names none.
    fn causes(uart: &mut Uart) -> Vec<u8> {
        let mut causes = Vec::new();
        loop {
            match uart.read(INTERRUPT_ID) & 0xf {
                IIR_NONE => return causes,
                cause => causes.push(cause),
            }
            assert!(causes.len() < 9, "{causes:?}");
            if causes.last() == Some(&IIR_RECEIVED) {
                uart.read(DATA);
            }
        }
    }

    /// A driver may leave its handler with bytes unread, as Linux does after 256:
    /// IIR still says that there are some.
    #[test]
    fn unread_bytes_stay_an_interrupt() {
        let mut uart = Uart::default();
        uart.write(INTERRUPT_ENABLE, IER_RECEIVED);
        assert_eq!(uart.receive(&[b'x'; 100]), 36);
        assert!(uart.interrupts());
        assert_eq!(uart.room(), 0);
        for _ in 0..FIFO_SIZE {
            assert_eq!(uart.read(INTERRUPT_ID), IIR_RECEIVED);
            assert_eq!(uart.read(LINE_STATUS), LSR_SENT | LSR_READY);
            assert_eq!(uart.read(DATA), b'x');
        }
        assert_eq!(uart.read(INTERRUPT_ID), IIR_NONE);
        assert_eq!(uart.read(LINE_STATUS), LSR_SENT);
        assert!(uart.is_drained());
    }

    #[test]
    fn a_cause_that_is_enabled_late_pulls_the_line() {
        let mut uart = Uart::default();
        assert_eq!(uart.receive(b"a"), 0);
        assert!(!uart.interrupts());
        uart.write(INTERRUPT_ENABLE, IER_RECEIVED);
        assert!(uart.interrupts());
        // Linux's console masks everything while it prints.
        uart.write(INTERRUPT_ENABLE, 0);
        assert!(!uart.interrupts());
        uart.write(INTERRUPT_ENABLE, IER_RECEIVED | IER_SENT);
        assert!(uart.interrupts());
        assert_eq!(causes(&mut uart), [IIR_RECEIVED, IIR_SENT]);
    }

    #[test]
    fn each_byte_sent_pulls_the_line() {
        let mut uart = Uart::default();
        uart.write(INTERRUPT_ENABLE, IER_SENT);
        assert!(uart.interrupts());
        for _ in 0..3 {
            assert_eq!(uart.write(DATA, b'y'), Some(b'y'));
            assert!(uart.interrupts());
        }
        assert_eq!(causes(&mut uart), [IIR_SENT]);
        assert!(!uart.interrupts());
        // Enabled again, the empty transmitter is a cause again.
        uart.write(INTERRUPT_ENABLE, 0);
        uart.write(INTERRUPT_ENABLE, IER_SENT);
        assert!(uart.interrupts());
    }

    /// What Linux's driver tries before it takes the port for a 16550A.
    #[test]
    fn a_driver_finds_a_16550a() {
        let mut uart = Uart::default();
        uart.write(INTERRUPT_ENABLE, 0xff);
        assert_eq!(uart.read(INTERRUPT_ENABLE), 0x0f);
        uart.write(INTERRUPT_ENABLE, 0);
        uart.write(MODEM_CONTROL, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(MODEM_STATUS) & 0xf0, 0x90);
        assert_eq!(uart.write(DATA, b'z'), None);
        assert_eq!((uart.room(), uart.is_drained()), (0, false));
        assert_eq!(uart.read(DATA), b'z');
        uart.write(MODEM_CONTROL, 0x0b);
        assert_eq!(uart.read(MODEM_STATUS), MSR_CONNECTED);
        assert_eq!(uart.read(INTERRUPT_ID), IIR_NONE);
        uart.write(INTERRUPT_ID, FCR_ENABLE);
        assert_eq!(uart.read(INTERRUPT_ID), IIR_NONE | IIR_FIFOS);
        uart.write(LINE_CONTROL, LCR_DIVISOR | 3);
        uart.write(DATA, 1);
        uart.write(INTERRUPT_ENABLE, 2);
        assert_eq!((uart.read(DATA), uart.read(INTERRUPT_ENABLE)), (1, 2));
        uart.write(LINE_CONTROL, 3);
        assert_eq!(uart.read(INTERRUPT_ENABLE), 0);
        uart.write(SCRATCH, 0x5a);
        assert_eq!(uart.read(SCRATCH), 0x5a);
        assert_eq!(uart.read(99), 0);
    }
}
