//! Putting a VM together, and running it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::beginning::Beginning;
use super::build_error::BuildError;
use super::extras::MachineExtras;
use super::host_full::{HostFull, PauseOnFull};
use super::hotplug::Hotplug;
use super::mover::Mover;
use super::parts::{self, Blueprint, Files};
use super::platform::DeviceSet;
use super::presence::PresenceKeeper;
use super::saving::{SaveError, SaveOrder, VmSaver};
use super::serial_file::ConsoleFiles;
use super::vcpus::{self, VcpuSource};
use super::virtio::{self, DeviceContext, DeviceShared};
use crate::config::{ConsoleConfig, VmConfig};
use crate::devices::cpu_hotplug::CpuHotplug;
use crate::devices::power::PowerButton;
use crate::devices::serial::ConsoleOutput;
use crate::devices::virtio::OutputState;
use crate::event_loop::{AffinityWatch, EventLoop, SignalRelay};
use crate::kvm::{Hypervisor, Vm};
use crate::pmu::PmuHooks;
use crate::stop::{EndPart, StopReason, StopSignal};
use crate::sys::signals::EndSignals;
use crate::sys::terminal::{RawTerminal, size};
use crate::sys::{kick, trim};
use crate::vcpu::presence::PresenceTable;
use crate::vcpu::{NoAnswer, VcpuSet};

/// How often the end of a VM looks whether the reader of its console reads.
const CONSOLE_LOOK: Duration = Duration::from_millis(50);
/// How long the reader of a console may stand still at the end of a VM: shorter than
/// [`crate::stop::END_TIME`].
const READER_TIME: Duration = Duration::from_secs(4);
/// How long it has when somebody wants the VM to end.
const ORDERED_TIME: Duration = Duration::from_secs(2);

/// The handles that control a machine from any thread, also while it runs.
#[derive(Clone, Debug)]
pub struct MachineControl {
    /// The vCPUs.
    pub vcpus: Arc<VcpuSet>,
    /// How many they are.
    pub hotplug: Arc<Hotplug>,
    /// The signal that ends the VM.
    pub stop: Arc<StopSignal>,
    /// The ACPI power button.
    pub power_button: PowerButton,
    /// What its guest prints.
    pub console: ConsoleOutput,
    /// Its devices.
    pub devices: DeviceSet,
    /// Why it is paused without an order.
    pub host_full: Arc<HostFull>,
    /// Its migration.
    pub mover: Arc<Mover>,
    /// Saves it; `None` if there is no KVM behind it, as in fuzz targets.
    pub(super) saver: Option<Arc<VmSaver>>,
}

impl MachineControl {
    /// Stops every vCPU at an exit boundary, then the devices in their order.
    ///
    /// # Errors
    /// If a vCPU does not within `within`; the guest runs on as before then.
    pub fn pause(&self, within: Duration) -> Result<(), NoAnswer> {
        self.vcpus.pause(within)?;
        self.devices.pause();
        Ok(())
    }

    /// Saves the VM into a folder that is not there yet. It stands meanwhile, for which its
    /// vCPUs have `within`; it stays so if it did, or if `order` says so.
    ///
    /// # Errors
    /// If a part cannot be saved; the guest runs on as before then.
    pub fn save(&self, order: &SaveOrder, within: Duration) -> Result<(), SaveError> {
        let saver = self.saver.as_ref().ok_or(SaveError::NoKvm)?;
        saver.save(self, order, within)
    }

    /// Has the devices go on, the last one first, then the vCPUs.
    pub fn resume(&self) {
        self.host_full.forget();
        self.devices.resume();
        self.vcpus.resume();
    }
}

/// A VM that is ready to run.
#[derive(Debug)]
pub struct Machine {
    control: MachineControl,
    events: EventLoop,
    /// Whether the console is this terminal.
    tty: bool,
    console_files: ConsoleFiles,
    // Last: the vCPU threads use its memory until they are joined.
    _vm: Vm,
}

/// KVM, if it takes as many vCPUs as the guest may have.
fn open_hypervisor(config: &VmConfig) -> Result<Hypervisor, BuildError> {
    let hypervisor = Hypervisor::open(&config.kvm_device)?;
    let (asked, max) = (config.cpus.max, hypervisor.max_vcpus());
    if usize::from(asked) > max {
        return Err(BuildError::TooManyVcpus { asked, max });
    }
    Ok(hypervisor)
}

/// The loop that ends with the VM. From here on the signals that end the VMM wait.
fn event_loop(stop: &Arc<StopSignal>, relay: Option<SignalRelay>) -> Result<EventLoop, BuildError> {
    let relayed = relay.as_ref().map_or(&[][..], SignalRelay::also);
    let signals = EndSignals::block(relayed).map_err(|source| BuildError::Host {
        what: "signals",
        source,
    })?;
    EventLoop::new(Arc::clone(stop), signals, relay).map_err(BuildError::EventLoop)
}

impl Machine {
    /// Checks the kernel and the initramfs, that the memory is enough for both, and that
    /// there is KVM.
    ///
    /// # Errors
    /// As [`Machine::build`], for these.
    pub fn check(config: &VmConfig) -> Result<(), BuildError> {
        Files::open(config)?;
        open_hypervisor(config).map(drop)
    }

    /// Checks everything that a file or the host decides, then builds the VM with the
    /// devices of `config`, and those of `extras` behind them. Nothing of the guest runs
    /// yet.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn build(
        config: &VmConfig,
        hooks: PmuHooks,
        mut extras: MachineExtras,
    ) -> Result<Self, BuildError> {
        let mut beginning = Beginning::open(config, extras.restore.take())?;
        let host = |what| move |source| BuildError::Host { what, source };
        let hypervisor = open_hypervisor(config)?;
        let blueprint = Blueprint::new(config, &hooks, &hypervisor);
        let (vm, created) = beginning.build(&blueprint, config, &hypervisor, &extras)?;
        let stop = extras.stop;
        // May create a file: behind all that refuses what the user gave.
        let console_files = ConsoleFiles::open(config, beginning.files(), extras.again)?;
        let socket = parts::serial_socket(&config.serial)?;
        let serial = parts::open_serial(config, &console_files, socket.as_ref(), extras.console)?;
        let (power_button, line) = parts::lines().map_err(host("an interrupt line"))?;
        let vcpus = Arc::new(VcpuSet::default());
        let table = PresenceTable::new(created.vcpus.into_values());
        let presence = Arc::new(PresenceKeeper::new(table, &vcpus, line.clone(), &hooks));
        let hotplug = CpuHotplug::new(Arc::clone(&presence) as _, line, config.cpus.clone());
        let mut platform = parts::place_devices(config, &stop, &serial, &power_button, hotplug)?;
        parts::place_generation(&mut platform, vm.memory())?;
        let shared = DeviceShared::new(console_files.console.as_ref())?;
        let signals = extras.signals.or_else(|| size_relay(config, &shared));
        let mut events = event_loop(&stop, signals)?;
        let context = &mut DeviceContext::new(config, &stop, &mut events, &shared);
        virtio::place_all(&vm, &mut platform, context, extras.devices)?;
        let devices = platform.connect(&vm)?;
        let console = serial.output.clone();
        let typist = parts::typist(config, serial, socket, &stop)?;
        typist.into_iter().for_each(|typist| events.add(typist));
        kick::install_handler().map_err(host("the signal handler of kicks"))?;
        let source = VcpuSource {
            hooks,
            memory: vm.memory().clone(),
            interrupter: vm.interrupter(),
            topology: config.cpus.topology,
            buses: Arc::new(platform.into_buses(console.clone())),
            stop: Arc::clone(&stop),
            observer: Arc::clone(&presence) as _,
            saved: beginning.saved_vcpus(),
        };
        let hotplug = Hotplug::new(presence, Arc::clone(&vcpus), source);
        beginning.begin(&hotplug, &vm, config, &devices)?;
        watch_required_cpus(&mut events, &vcpus, &stop)?;
        // Behind all that refuses: the reason of a refusal is the only line.
        vcpus::warn_of_leaks(&created.leaked);
        let saver = VmSaver::new(&vm, created.msrs, extras.flags, config.cpus.nested).into();
        let control = MachineControl {
            vcpus,
            hotplug: Arc::new(hotplug),
            stop,
            power_button,
            console,
            devices,
            host_full: shared.host_full,
            mover: Arc::default(),
            saver: Some(saver),
        };
        events.add(Arc::new(Mutex::new(PauseOnFull::new(&control))));
        Ok(Self {
            control,
            events,
            tty: config.has_terminal(),
            console_files,
            _vm: vm,
        })
    }

    /// The handles that control this machine.
    #[must_use]
    pub fn control(&self) -> MachineControl {
        self.control.clone()
    }

    /// Takes what the guest will change: the file of its console is emptied. Comes
    /// behind all that can refuse to start the VM.
    ///
    /// # Errors
    /// If the file cannot be emptied.
    pub fn take_files(&mut self) -> Result<(), BuildError> {
        Ok(self.console_files.take()?)
    }

    /// Runs the guest to its end, and says why it ended. The terminal is the
    /// guest's meanwhile.
    #[must_use]
    pub fn run(mut self) -> Arc<StopReason> {
        let terminal = if self.tty { raw_terminal() } else { None };
        if !self.control.vcpus.is_paused() {
            // Those of a snapshot stand.
            self.control.devices.resume();
        }
        self.control.vcpus.start();
        if let Err(error) = trim::process() {
            log::debug!("what the start has used stays in memory: {error}");
        }
        self.events.run();
        let stop = Arc::clone(&self.control.stop);
        let deadline = stop.deadline();
        deadline.enter(EndPart::Vcpus);
        // On a busy host, each of many vCPUs takes its time.
        self.control.hotplug.end(|| deadline.extend());
        deadline.enter(EndPart::Devices);
        self.flush_devices();
        self.control.devices.reset();
        deadline.enter(EndPart::Console);
        self.empty_console();
        drop(terminal);
        deadline.enter(EndPart::Threads);
        self.events.end();
        match stop.reason() {
            Some(reason) => Arc::clone(reason),
            // The loop ends for no other cause.
            None => Arc::new(StopReason::PowerOff),
        }
    }

    /// Waits for the readers of what the guest has written to its devices: while they
    /// read, unless somebody wants the VM to end.
    fn flush_devices(&mut self) {
        let MachineControl { devices, stop, .. } = &self.control;
        let (mut ordered, mut moved) = (None, Instant::now());
        // A VM that is paused ends so: what it has not written, it has not.
        while !self.control.vcpus.is_paused() {
            match devices.flush_output(CONSOLE_LOOK) {
                OutputState::Done => break,
                OutputState::Moves => moved = Instant::now(),
                OutputState::Stands => {}
            }
            self.events.serve_pending();
            ordered = ordered.or_else(|| stop.is_ordered().then(Instant::now));
            let is_over = |since: Instant| since.elapsed() >= ORDERED_TIME;
            if moved.elapsed() >= READER_TIME || ordered.is_some_and(is_over) {
                break;
            }
            if ordered.is_none() {
                stop.deadline().extend();
            }
        }
    }

    /// Waits for the reader of what the guest has printed: while it reads, unless
    /// somebody wants the VM to end.
    fn empty_console(&mut self) {
        let MachineControl { console, stop, .. } = &self.control;
        let (mut ordered, mut sent) = (None, None);
        while !console.wait_until_empty(CONSOLE_LOOK) && console.stands_for() < READER_TIME {
            self.events.serve_pending();
            let since = ordered.or_else(|| stop.is_ordered().then(Instant::now));
            if since.is_some_and(|since| since.elapsed() >= ORDERED_TIME) {
                break;
            }
            // The first time: the vCPUs have ended.
            if sent.replace(console.counts()) != Some(console.counts()) && since.is_none() {
                stop.deadline().extend();
            }
            ordered = since;
        }
    }
}

/// Watches the vCPU threads that must stay on required CPUs, if there are any. A
/// thread that starts later has required CPUs only if those of the start have some.
fn watch_required_cpus(
    events: &mut EventLoop,
    vcpus: &Arc<VcpuSet>,
    stop: &Arc<StopSignal>,
) -> Result<(), BuildError> {
    if vcpus.required_cpus().is_empty() {
        return Ok(());
    }
    let watch = AffinityWatch::new(Arc::clone(vcpus), Arc::clone(stop));
    let watch = watch.map_err(|source| BuildError::Host {
        what: "a timer for the watch of the vCPU threads' affinity",
        source,
    })?;
    events.add_required(watch).map_err(BuildError::EventLoop)
}

/// Tells the guest of the size of this terminal, if that is its virtio console.
fn size_relay(config: &VmConfig, shared: &DeviceShared<'_>) -> Option<SignalRelay> {
    if config.console != Some(ConsoleConfig::Tty) {
        return None;
    }
    let console = Arc::clone(&shared.terminal);
    let changed = libc::SIGWINCH;
    Some(SignalRelay::new(&[changed], move |signal| {
        let is_size = i32::try_from(signal) == Ok(changed);
        if is_size && let (Some(console), Some((columns, rows))) = (console.get(), size()) {
            console.resize(columns, rows);
        }
        is_size
    }))
}

fn raw_terminal() -> Option<RawTerminal> {
    RawTerminal::enter().unwrap_or_else(|error| {
        log::warn!("cannot set the terminal to raw mode: {error}");
        None
    })
}
