//! The life of one vCPU thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use vpmu::ids::{MsrIndex, VcpuId};

use super::buses::Buses;
use super::handle::{ThreadObserver, VcpuMessage, VcpuReport};
use super::port::{MsrPort, WrmsrAnswer};
use super::required_cpus::CpuGuard;
use super::state::{Order, VcpuState, after};
use crate::kvm::{Exit, Vcpu};
use crate::stop::{PortError, StopReason, StopSignal};
use crate::sys::kick::Registration;
use crate::sys::trim;

/// What a vCPU thread owns.
pub(super) struct VcpuThread {
    pub(super) id: VcpuId,
    pub(super) port: Box<dyn MsrPort>,
    /// Dropped before `vcpu`, as it points into it.
    pub(super) kicks: Registration,
    pub(super) vcpu: Vcpu,
    pub(super) guard: CpuGuard,
    pub(super) buses: Arc<Buses>,
    pub(super) mailbox: Receiver<VcpuMessage>,
    pub(super) stop: Arc<StopSignal>,
    pub(super) observer: Arc<dyn ThreadObserver>,
    /// A WRMSR that the port answers later, and its value. The guest is not entered
    /// before.
    pub(super) unanswered: Option<(MsrIndex, u64)>,
}

/// Whether to enter the guest again.
enum Next {
    Enter,
    CheckMailbox,
    WaitForConsole,
    /// Wait for a message, for so long.
    Wait(Duration),
    Pause,
    Stop(StopReason),
}

/// How often a vCPU that waits for the console's reader looks into its mailbox.
const CONSOLE_WAIT: Duration = Duration::from_millis(10);

impl VcpuThread {
    /// Runs the machine to its end, and reports it. Returns KVM's vCPU, which
    /// outlives its thread; its port ends here, on the thread that it belongs to.
    pub(super) fn run(mut self) -> Vcpu {
        if let Err(error) = trim::stack() {
            log::debug!(
                "vCPU {}: the start's stack stays in memory: {error}",
                self.id
            );
        }
        let mut state = VcpuState::Ready;
        loop {
            let next = match state {
                VcpuState::Ready | VcpuState::Paused => self.wait(state),
                VcpuState::Running => self.running(),
                VcpuState::Finished => break,
            };
            if next != state {
                log::debug!("vCPU {}: {state:?} -> {next:?}", self.id);
            }
            if (state, next) == (VcpuState::Paused, VcpuState::Running) {
                self.vcpu.guest_was_stopped();
            }
            state = next;
        }
        self.complete_wrmsr();
        let Self {
            port,
            kicks,
            mut vcpu,
            stop,
            id,
            observer,
            ..
        } = self;
        observer.thread_ended(id, &port.finish());
        // It points into the vCPU.
        drop(kicks);
        // Of a VM that goes on, nothing may be left in it that still ticks.
        if stop.reason().is_none()
            && let Err(error) = vcpu.reset()
        {
            log::warn!("vCPU {id} cannot be reset: {error}");
        }
        vcpu
    }

    /// Outside of the guest: sleeps until somebody says something.
    fn wait(&mut self, state: VcpuState) -> VcpuState {
        match self.mailbox.recv() {
            Ok(message) => self.take(state, message),
            // Whoever held the other end is gone, and so is the VM.
            Err(_) => VcpuState::Finished,
        }
    }

    fn running(&mut self) -> VcpuState {
        loop {
            match self.enter() {
                Next::Enter => {}
                Next::CheckMailbox => {
                    let state = self.check_mailbox();
                    if state != VcpuState::Running {
                        return state;
                    }
                }
                Next::WaitForConsole => {
                    let state = self.wait_for_console();
                    if state != VcpuState::Running {
                        return state;
                    }
                }
                Next::Wait(longest) => {
                    let state = self.wait_for(longest);
                    if state != VcpuState::Running {
                        return state;
                    }
                }
                Next::Pause => return VcpuState::Paused,
                Next::Stop(reason) => {
                    self.stop.stop(reason);
                    return VcpuState::Paused;
                }
            }
        }
    }

    /// Waits outside of the guest, until somebody says something or the time is over.
    fn wait_for(&mut self, longest: Duration) -> VcpuState {
        let state = self.check_mailbox();
        if state != VcpuState::Running || longest.is_zero() {
            return state;
        }
        match self.mailbox.recv_timeout(longest) {
            Ok(message) => self.take(state, message),
            Err(RecvTimeoutError::Timeout) => state,
            Err(RecvTimeoutError::Disconnected) => VcpuState::Finished,
        }
    }

    fn check_mailbox(&mut self) -> VcpuState {
        self.kicks.rearm();
        self.empty_mailbox()
    }

    /// Outside of the guest, behind a write that filled the console's queue. A kick
    /// stays for the next run, which may be for more than the mailbox.
    fn wait_for_console(&mut self) -> VcpuState {
        loop {
            let state = self.empty_mailbox();
            if state != VcpuState::Running || self.buses.console.wait_for_room(CONSOLE_WAIT) {
                return state;
            }
        }
    }

    fn empty_mailbox(&mut self) -> VcpuState {
        let mut state = VcpuState::Running;
        loop {
            match self.mailbox.try_recv() {
                Ok(message) => state = self.take(state, message),
                Err(TryRecvError::Empty) => return state,
                Err(TryRecvError::Disconnected) => return VcpuState::Finished,
            }
        }
    }

    /// Does what a message says; returns the state that it leads to.
    fn take(&mut self, state: VcpuState, message: VcpuMessage) -> VcpuState {
        match message {
            VcpuMessage::Report(to) => {
                let pmu = self.port.status();
                let vcpu = self.id;
                // Whoever asked may have given up.
                drop(to.send(VcpuReport { vcpu, state, pmu }));
                state
            }
            VcpuMessage::Monitor(order, to) => {
                drop(to.send((self.id, self.port.monitor(order))));
                state
            }
            VcpuMessage::Save(msrs, to) => {
                self.send_saved(state, &msrs, &to);
                state
            }
            // It stands because of the reason, and executes nothing beyond it.
            VcpuMessage::Run if self.stop.reason().is_some() => state,
            VcpuMessage::Run => after(state, Order::Run),
            VcpuMessage::Pause => after(state, Order::Pause),
            VcpuMessage::Stop => after(state, Order::Stop),
        }
    }

    /// One round through the guest.
    fn enter(&mut self) -> Next {
        if let Some((index, value)) = self.unanswered {
            return self.wrmsr(index, value);
        }
        if let Err(source) = self.port.before_run(&mut self.vcpu) {
            return Next::Stop(self.port_failed(source));
        }
        let exit = self.vcpu.run();
        if matches!(exit, Ok(Exit::Interrupted)) {
            return self.interrupted();
        }
        self.port.after_run();
        if let Some(reason) = self.guard.check(self.id) {
            return Next::Stop(reason);
        }
        match exit {
            Ok(Exit::PioIn { port, size, data }) => self.buses.read_port(port, size, data),
            Ok(Exit::PioOut { port, .. }) if self.port.is_doorbell(port) => {
                if let Err(source) = self.port.on_doorbell(&mut self.vcpu) {
                    return Next::Stop(self.port_failed(source));
                }
            }
            Ok(Exit::PioOut { port, size, data }) => {
                let stops = || self.stop.reason().is_some();
                self.buses.write_port(port, data.chunks(size), stops);
                return self.after_port_write(port);
            }
            Ok(Exit::MmioRead { address, data }) => self.buses.mmio.read(address, data),
            Ok(Exit::MmioWrite { address, data }) => {
                self.buses.mmio.write(address, data);
                return self.unless_stopped();
            }
            Ok(Exit::Rdmsr(index)) => {
                let outcome = self.port.on_rdmsr(&mut self.vcpu, index);
                self.vcpu.answer_rdmsr(outcome);
            }
            Ok(Exit::Wrmsr(index, value)) => return self.wrmsr(index, value),
            Ok(Exit::Interrupted) => return Next::CheckMailbox,
            Ok(Exit::Shutdown) => return Next::Stop(self.triple_fault()),
            Ok(Exit::InternalError) => return Next::Stop(self.internal_error()),
            Ok(Exit::FailEntry { reason }) => {
                let vcpu = self.id;
                return Next::Stop(StopReason::EntryFailure { vcpu, reason });
            }
            Ok(Exit::MemoryFault { gpa }) => {
                let vcpu = self.id;
                return Next::Stop(StopReason::MemoryFault { vcpu, gpa });
            }
            Ok(Exit::Unknown(exit)) => return Next::Stop(self.unknown(exit)),
            Err(source) => {
                let vcpu = self.id;
                return Next::Stop(StopReason::Run { vcpu, source });
            }
        }
        Next::Enter
    }

    fn wrmsr(&mut self, index: MsrIndex, value: u64) -> Next {
        match self.port.on_wrmsr(&mut self.vcpu, index, value) {
            WrmsrAnswer::Done(outcome) => {
                if self.unanswered.take().is_some() {
                    // A kick that was taken meanwhile may be for more than the mailbox.
                    self.kicks.hold();
                }
                self.vcpu.answer_wrmsr(outcome);
                Next::Enter
            }
            WrmsrAnswer::Later(wait) => {
                self.unanswered = Some((index, value));
                Next::Wait(wait)
            }
        }
    }

    /// KVM completes an exit at the next entry: a vCPU that comes again would begin
    /// with the end of a WRMSR that it never executed. So an entry that executes
    /// nothing completes it here.
    fn complete_wrmsr(&mut self) {
        if self.unanswered.take().is_none() {
            return;
        }
        self.vcpu.answer_wrmsr(Ok(()));
        self.kicks.hold();
        if let Err(error) = self.vcpu.run() {
            log::debug!("vCPU {}: its last WRMSR: {error}", self.id);
        }
    }

    /// A signal ended the run: a timer, a host counter's overflow, or somebody who
    /// has a message.
    fn interrupted(&mut self) -> Next {
        if let Err(source) = self.port.after_interrupted_run(&mut self.vcpu) {
            return Next::Stop(self.port_failed(source));
        }
        let stop = self.guard.check(self.id);
        stop.map_or(Next::CheckMailbox, Next::Stop)
    }

    /// After a write that may have stopped the VM: the guest executes nothing
    /// beyond it.
    fn unless_stopped(&self) -> Next {
        if self.stop.reason().is_none() {
            Next::Enter
        } else {
            Next::Pause
        }
    }

    /// The same, of a write that may have filled the console's queue.
    fn after_port_write(&self, port: u16) -> Next {
        match self.unless_stopped() {
            Next::Enter if self.buses.is_console_full(port) => Next::WaitForConsole,
            next => next,
        }
    }

    const fn port_failed(&self, source: PortError) -> StopReason {
        let vcpu = self.id;
        StopReason::Port { vcpu, source }
    }

    fn triple_fault(&mut self) -> StopReason {
        StopReason::TripleFault {
            vcpu: self.id,
            rip: self.vcpu.instruction_pointer(),
        }
    }

    fn internal_error(&mut self) -> StopReason {
        StopReason::InternalError {
            vcpu: self.id,
            suberror: self.vcpu.internal_error(),
            rip: self.vcpu.instruction_pointer(),
        }
    }

    fn unknown(&self, exit: u32) -> StopReason {
        StopReason::UnknownExit {
            vcpu: self.id,
            exit,
        }
    }
}
