//! One VM from its configuration to its end, for `perfvisor run` and `perfvisor exec`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use vpmu::host::linux::sysfs::Sysfs;

use crate::config::{ConfigError, CpusConfig, PmuArg, VmConfig};
use crate::control::{ControlServer, VmControl, VmFacts};
use crate::machine::{BuildError, Machine, MachineControl, MachineExtras};
use crate::output::stderr;
use crate::pmu::{HostCpus, PmuBacking, PmuError, PmuHooks, PmuPlan, UncoreHosts, place};
use crate::stop::{END_TIME, EndWatch, StopReason, StopSignal};
use crate::sys::socket_file::{SocketError, SocketFile};
use crate::sys::{end, limits};
use crate::vcpu::NoAnswer;

/// What names the API's socket.
const API_SOCKET: &str = "--api-socket: path";
/// How long threads that wait may take to say so.
const START_TIME: Duration = Duration::from_secs(10);
/// The VM did not end in time. Even, as the values of `--debug-exit` are odd.
const CUT_SHORT: u8 = 4;

/// The reason why no VM was started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A flag is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest cannot have its PMU.
    #[error(transparent)]
    Pmu(#[from] PmuError),
    /// A file is not usable, or the host cannot build the VM.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The socket of the control API cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The signal of the end.
    #[error("cannot set up an eventfd")]
    Event(#[from] io::Error),
    /// The handlers of fatal signals.
    #[error("cannot set up signal handlers")]
    Signals(#[source] io::Error),
    /// The thread that watches the end of the VM.
    #[error("cannot start a thread")]
    Deadline(#[source] io::Error),
    /// The guest cannot wait.
    #[error("cannot have the guest wait: paused=on")]
    Pause(#[source] NoAnswer),
    /// The thread of the control API does not start.
    #[error("cannot serve the control API")]
    Api(#[source] io::Error),
}

impl LaunchError {
    /// Whether what the user gave is to blame, rather than the host.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config(_) | Self::Socket(_) => true,
            Self::Pmu(error) => error.is_usage(),
            Self::Build(error) => error.is_usage(),
            Self::Event(_)
            | Self::Signals(_)
            | Self::Deadline(_)
            | Self::Pause(_)
            | Self::Api(_) => false,
        }
    }
}

/// A VM that is ready to run.
#[derive(Debug)]
pub struct Launch {
    // Before the machine: the API goes with the VM, and its socket before the machine.
    api: Option<ControlServer>,
    watch: EndWatch,
    machine: Machine,
    pmu: Option<PmuPlan>,
}

/// How a VM ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub reason: Arc<StopReason>,
    /// The PMU's part, if the guest had one; complete.
    pub pmu: Option<PmuPlan>,
}

impl Launch {
    /// Builds the VM; nothing of the guest runs yet.
    ///
    /// # Errors
    /// If nothing was started.
    pub fn prepare(config: &VmConfig, extras: MachineExtras) -> Result<Self, LaunchError> {
        if let Err(error) = limits::raise_open_files() {
            log::debug!("the limit of open files stays as it is: {error}");
        }
        if let Some(path) = &config.api_socket {
            SocketFile::check(API_SOCKET, path)?;
        }
        let sysfs = Sysfs::default();
        let host_cpus = HostCpus::read(&sysfs);
        let pmu = plan_pmus(config, &sysfs, &host_cpus)?;
        let backing = pmu.as_ref().map(PmuPlan::host);
        let affinity = place(&config.cpus, backing, &host_cpus).map_err(PmuError::from)?;
        let mut hooks = match &pmu {
            Some(pmu) => pmu.hooks()?,
            None => PmuHooks::none(),
        };
        hooks.affinity = affinity;
        let mut machine = Machine::build(config, hooks, extras)?;
        if let Some(pmu) = &pmu {
            pmu.announce();
        }
        end::undo_on_fatal_signals().map_err(LaunchError::Signals)?;
        let watch = watch_end(&machine.control().stop).map_err(LaunchError::Deadline)?;
        // Signals that end the VMM wait from here on, so the socket goes with it.
        let api = serve_api(config, &machine, pmu.as_ref())?;
        machine.take_files()?;
        Ok(Self {
            api,
            watch,
            machine,
            pmu,
        })
    }

    /// The handles that control the machine.
    #[must_use]
    pub fn control(&self) -> MachineControl {
        self.machine.control()
    }

    /// Has the guest wait for `perfvisor ctl resume` before it runs.
    ///
    /// # Errors
    /// If its vCPUs do not stand.
    pub fn wait_for_resume(&self) -> Result<(), LaunchError> {
        self.control().pause(START_TIME).map_err(LaunchError::Pause)
    }

    /// Runs the guest to its end.
    #[must_use]
    pub fn run(self) -> Ended {
        let reason = self.machine.run();
        drop(self.api);
        drop(self.watch);
        Ended {
            reason,
            pmu: self.pmu,
        }
    }
}

/// Has the process end although the VM does not, when the time for its end is over.
fn watch_end(stop: &Arc<StopSignal>) -> io::Result<EndWatch> {
    let reasons = Arc::clone(stop);
    stop.deadline().watch(move |part| {
        end::undo();
        let reason = reasons.reason().map(ToString::to_string);
        stderr::line(&format!(
            "perfvisor: the end of the VM was cut short, as {part} took longer than {} s ({})",
            END_TIME.as_secs(),
            reason.unwrap_or_default()
        ));
        stderr::flush();
        end::exit_now(CUT_SHORT);
    })
}

/// The PMUs of a guest: the core's, and those of scopes.
fn plan_pmus(
    config: &VmConfig,
    sysfs: &Sysfs,
    host: &HostCpus,
) -> Result<Option<PmuPlan>, PmuError> {
    let cpus = &config.cpus;
    let Some(plan) = PmuPlan::new(&config.pmu, cpus, sysfs, host)? else {
        return Ok(None);
    };
    let Some(hosts) = UncoreHosts::find(config.uncore, plan.model_kind(), cpus, sysfs)? else {
        return Ok(Some(plan));
    };
    log::info!("uncore: {hosts}");
    plan.with_uncore(&hosts.plan(), cpus).map(Some)
}

/// Whether a clock, and no PMU of the host, would count for a guest with this PMU.
///
/// # Errors
/// If the guest cannot have it.
pub fn counts_by_clock(pmu: &PmuArg, cpus: &CpusConfig) -> Result<bool, LaunchError> {
    let sysfs = Sysfs::default();
    let plan = PmuPlan::new(pmu, cpus, &sysfs, &HostCpus::read(&sysfs))?;
    Ok(plan.is_some_and(|plan| matches!(plan.host(), PmuBacking::Software(_))))
}

/// Serves the control API of a machine, if it is to have one.
fn serve_api(
    config: &VmConfig,
    machine: &Machine,
    pmu: Option<&PmuPlan>,
) -> Result<Option<ControlServer>, LaunchError> {
    let Some(path) = &config.api_socket else {
        return Ok(None);
    };
    let facts = VmFacts {
        memory_bytes: config.memory.size,
        kernel: config.kernel.clone(),
        pmu_backing: pmu.map(PmuPlan::backing),
        ended: pmu.map(PmuPlan::ended).unwrap_or_default(),
        uncore: pmu.and_then(PmuPlan::uncore),
        monitors: pmu.map(PmuPlan::monitors),
    };
    let socket = SocketFile::bind(API_SOCKET, path)?;
    let server = ControlServer::start(socket, VmControl::new(facts, machine.control()));
    server.map(Some).map_err(LaunchError::Api)
}
