//! Why a VM stopped, and how long its end may take. The first reason is kept.

mod deadline;

use std::io;
use std::path::PathBuf;

use std::sync::{Arc, OnceLock};

use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::VcpuId;
use vpmu::state::RestoreError;

pub use self::deadline::{END_TIME, EndDeadline, EndPart, EndWatch};
use crate::kvm::KvmError;

/// Why the port of a vCPU, which serves its MSRs, cannot go on.
#[derive(Debug, Error)]
pub enum PortError {
    /// KVM refused something, an interrupt for one.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The user's signals are used up: the host reserves one for each timer.
    #[error(
        "cannot create the overflow timer: all signals that the host queues for this user are taken (RLIMIT_SIGPENDING); raise the limit (ulimit -i), or use --pmu off"
    )]
    SignalQueue(#[source] io::Error),
    /// The PMU of a snapshot cannot go on here.
    #[error("the PMU of the snapshot cannot go on here")]
    Restore(#[from] RestoreError),
    /// What a snapshot has of the PMU is damaged, or this host treats RDPMC otherwise.
    #[error("the PMU of the snapshot cannot go on here: {0}")]
    Snapshot(&'static str),
    /// The host refused something, a counter for one.
    #[error("{what}")]
    Host {
        /// The action that failed.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
}

impl PortError {
    /// The host gives no overflow timer. timer_create(2): `EAGAIN` is about the
    /// user's signals.
    #[must_use]
    pub fn timer(source: io::Error) -> Self {
        if source.raw_os_error() == Some(libc::EAGAIN) {
            return Self::SignalQueue(source);
        }
        Self::Host {
            what: "cannot create the overflow timer",
            source,
        }
    }
}

/// Why a VM stopped. The text is the one line that the user sees.
#[derive(Debug, Error)]
pub enum StopReason {
    /// The guest powered itself off (ACPI S5).
    #[error("the guest powered off")]
    PowerOff,
    /// The guest asked for a reset (ACPI reset register or keyboard controller).
    #[error("the guest asked for a reset")]
    Reset,
    /// The guest's kernel has panicked.
    #[error("the guest's kernel panicked")]
    GuestPanic,
    /// The user typed the quit key.
    #[error("the user ended the VM at the console (Ctrl-A x)")]
    ConsoleQuit,
    /// The guest wrote this to the port of `--debug-exit`.
    #[error("the guest ended the VM with {0:#x} at port 0xf4")]
    DebugExit(u32),
    /// The command of `perfvisor exec` has ended, or its time is over.
    #[error("the command ended")]
    CommandEnded,
    /// `perfvisor ctl shutdown --force`.
    #[error("the control API ended the VM (shutdown --force)")]
    ApiShutdown,
    /// `perfvisor ctl snapshot --stop`.
    #[error("the VM was saved (snapshot --stop)")]
    Saved,
    /// `perfvisor ctl migrate --to`.
    #[error("the VM has moved to {socket} and runs there (its guest stood for {downtime_ms} ms)", socket = .socket.display())]
    Moved {
        /// The destination.
        socket: PathBuf,
        /// How long the guest stood, ms.
        downtime_ms: u64,
    },
    /// A signal asked the VMM to end.
    #[error("ended by signal {0}")]
    HostSignal(u32),
    /// The guest took a fault while delivering a double fault.
    #[error("the guest triple-faulted on vCPU {vcpu} ({})", place(*.rip))]
    TripleFault {
        /// The vCPU.
        vcpu: VcpuId,
        /// Its instruction pointer as KVM reports it afterwards. AMD hosts
        /// reset the vCPU first, and then show [`RESET_VECTOR`] here.
        rip: u64,
    },
    /// The CPU refused to enter the guest.
    #[error("the host CPU refused to enter vCPU {vcpu} (hardware reason {reason:#x})")]
    EntryFailure {
        /// The vCPU.
        vcpu: VcpuId,
        /// The hardware's code.
        reason: u64,
    },
    /// KVM gave up, mostly on an instruction that it cannot emulate.
    #[error(
        "KVM gave up on vCPU {vcpu} with an internal error (suberror {suberror}, rip {rip:#x})"
    )]
    InternalError {
        /// The vCPU.
        vcpu: VcpuId,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// The guest's instruction pointer.
        rip: u64,
    },
    /// The guest touched memory that KVM could not provide.
    #[error("vCPU {vcpu} touched guest memory that KVM could not provide, at {gpa:#x}")]
    MemoryFault {
        /// The vCPU.
        vcpu: VcpuId,
        /// The guest-physical address.
        gpa: u64,
    },
    /// An exit that this VMM does not handle.
    #[error("vCPU {vcpu} left the guest with KVM exit {exit}, which Perfvisor does not handle")]
    UnknownExit {
        /// The vCPU.
        vcpu: VcpuId,
        /// `KVM_EXIT_*`, or `u32::MAX` where the binding does not tell.
        exit: u32,
    },
    /// `KVM_RUN` failed.
    #[error("vCPU {vcpu} cannot run")]
    Run {
        /// The vCPU.
        vcpu: VcpuId,
        /// KVM's error.
        source: KvmError,
    },
    /// The part that serves a vCPU's MSRs failed.
    #[error("the PMU registers of vCPU {vcpu} cannot be served")]
    Port {
        /// The vCPU.
        vcpu: VcpuId,
        /// The error of that part.
        source: PortError,
    },
    /// A vCPU may run, or runs, where its PMU does not count.
    #[error(
        "vCPU {vcpu} was moved to host CPUs {found}, but host PMU {pmu}, which counts for it, is on host CPUs {counts} only; keep its thread on host CPUs {counts}, or use --pmu type=auto"
    )]
    ForeignCpu {
        /// The vCPU.
        vcpu: VcpuId,
        /// The host CPUs on which it may run now, or on which it was found.
        found: CpuSet,
        /// The host PMU that counts for the vCPU.
        pmu: String,
        /// The host CPUs on which this PMU counts.
        counts: CpuSet,
    },
    /// The process that served a device is lost.
    #[error("{flag}: {text}; the guest cannot go on without it")]
    BackendLost {
        /// The flag of the device, with the value that names it.
        flag: String,
        /// Who is lost, and why.
        text: String,
    },
    /// The event loop failed.
    #[error("the event loop failed")]
    EventLoop(#[source] event_manager::Error),
}

impl StopReason {
    /// Whether somebody outside of the guest wants the VM to end now, and does not
    /// wait for whoever reads its console.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        matches!(
            self,
            Self::ConsoleQuit | Self::CommandEnded | Self::ApiShutdown | Self::HostSignal(_)
        )
    }

    /// The exit status of the process: 0 if the guest, the console or the
    /// control API ended the VM, 128 + n for signal n as shells do, 2 v + 1 (its
    /// lowest eight bits) for v at the debug exit, 6 for a panic of the guest's kernel, 8 for
    /// a VM that has moved, 1 for another failure.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PowerOff
            | Self::Reset
            | Self::ConsoleQuit
            | Self::CommandEnded
            | Self::ApiShutdown
            | Self::Saved => 0,
            Self::GuestPanic => GUEST_PANIC,
            Self::Moved { .. } => MOVED,
            Self::DebugExit(value) => {
                let [low, ..] = value.to_le_bytes();
                low << 1 | 1
            }
            Self::HostSignal(signal) => 128 | u8::try_from(signal & 0x7f).unwrap_or(0),
            _ => 1,
        }
    }
}

/// The place where whoever stops the VM leaves the reason. The first one wins.
#[derive(Debug)]
pub struct StopSignal {
    reason: OnceLock<Arc<StopReason>>,
    event: EventFd,
    order: OnceLock<Arc<StopReason>>,
    deadline: Arc<EndDeadline>,
}

impl StopSignal {
    /// A signal that nobody has given yet.
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            reason: OnceLock::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
            order: OnceLock::new(),
            deadline: Arc::default(),
        })
    }

    /// Stops the VM, unless it is stopping for another reason already.
    pub fn stop(&self, reason: StopReason) {
        let reason = Arc::new(reason);
        if reason.is_order() {
            // The first order wins as well.
            let _later = self.order.set(Arc::clone(&reason));
        }
        match self.reason.set(reason) {
            Ok(()) => self.deadline.extend(),
            Err(late) => log::debug!("the VM stops already; another reason: {late}"),
        }
        if let Err(error) = self.event.write(1) {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// The reason, if there is one yet.
    #[must_use]
    pub fn reason(&self) -> Option<&Arc<StopReason>> {
        self.reason.get()
    }

    /// The first of the reasons so far that is an order ([`StopReason::is_order`]); the VM
    /// may have been stopping for another one.
    #[must_use]
    pub fn order(&self) -> Option<&Arc<StopReason>> {
        self.order.get()
    }

    /// Whether there is an order.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.order().is_some()
    }

    /// How long the end may take; the first reason begins it.
    #[must_use]
    pub const fn deadline(&self) -> &Arc<EndDeadline> {
        &self.deadline
    }

    /// Readable once the VM is to stop.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// The status of a guest whose kernel has panicked. Even, as the values of
/// `--debug-exit` are odd.
const GUEST_PANIC: u8 = 6;
/// The status of a VM that runs elsewhere. Even as well.
const MOVED: u8 = 8;

/// The instruction pointer of a vCPU that was reset.
const RESET_VECTOR: u64 = 0xfff0;

/// Where a triple fault was. KVM's `svm.c` resets the vCPU before it tells of one, as the
/// processor leaves its state undefined.
fn place(rip: u64) -> String {
    if rip == RESET_VECTOR {
        "where is not known: KVM has reset the vCPU, as it does on AMD hosts".into()
    } else {
        format!("rip {rip:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let stop = StopSignal::new().unwrap();
        stop.stop(StopReason::Reset);
        assert!(!stop.is_ordered());
        stop.stop(StopReason::HostSignal(15));
        assert!(matches!(
            stop.reason().map(Arc::as_ref),
            Some(StopReason::Reset)
        ));
        assert_eq!(
            stop.order().map(|order| order.exit_status()),
            Some(143),
            "the later one is an order"
        );
    }

    #[test]
    fn statuses_are_what_shells_expect() {
        assert_eq!(StopReason::PowerOff.exit_status(), 0);
        assert_eq!(StopReason::ApiShutdown.exit_status(), 0);
        assert_eq!(StopReason::HostSignal(15).exit_status(), 143);
        let fault = StopReason::TripleFault {
            vcpu: VcpuId(0),
            rip: 0,
        };
        assert_eq!(fault.exit_status(), 1);
    }

    #[test]
    fn a_reset_vcpu_does_not_say_where_it_was() {
        let text = |rip| {
            let vcpu = VcpuId(33);
            StopReason::TripleFault { vcpu, rip }.to_string()
        };
        assert_eq!(
            text(0x1234),
            "the guest triple-faulted on vCPU 33 (rip 0x1234)"
        );
        let reset = text(0xfff0);
        assert!(reset.contains("vCPU 33 (where is not known"), "{reset}");
        assert!(!reset.contains("fff0"), "{reset}");
    }
}
