//! The API's requests for the VM: information, pause, resume, shutdown, vCPUs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vpmu::Totals;
use vpmu::ids::VcpuId;

use super::http::Response;
use super::report::{
    ConsoleInfo, Info, NewState, PmuInfo, PmuReport, PowerState, ShutdownRequest, SnapshotRequest,
    StateReport, VcpuPmuReport, VcpuSlot, VcpuSlots,
};
use super::routes::RouteCall;
use crate::error_text::one_line;
use crate::machine::{Hotplug, HotplugError, MachineControl, SaveError, SaveOrder};
use crate::pmu::monitors::VmMonitors;
use crate::pmu::{SharedUncore, UncoreStatus, VmTotals, add_up};
use crate::stop::StopReason;
use crate::vcpu::presence::{Presence, PresenceRefusal, PresenceReport};
use crate::vcpu::{NoAnswer, UncountedNames};

/// How long the vCPUs may take to stand, or to answer.
pub(super) const VCPU_TIME: Duration = Duration::from_secs(2);
/// For how long a status is good: a client that asks without end leaves the
/// guest alone for this long between two kicks.
const STATUS_TIME: Duration = Duration::from_millis(10);

/// The facts of a VM that stay the same while it runs.
#[derive(Clone, Debug)]
pub struct VmFacts {
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The source of the guest's counts; `None` if the guest has no PMU.
    pub pmu_backing: Option<String>,
    /// The totals of the vCPUs that have ended.
    pub ended: Arc<VmTotals>,
    /// The uncore PMUs; `None` if the guest has none.
    pub uncore: Option<Arc<SharedUncore>>,
    /// The monitors of the VM; `None` if the guest has no PMU.
    pub monitors: Option<Arc<VmMonitors>>,
}

/// A VM as the API sees it.
#[derive(Debug)]
pub struct VmControl {
    pub(super) facts: VmFacts,
    started: Instant,
    pub(super) machine: MachineControl,
    status: Option<Status>,
}

#[derive(Debug)]
pub(super) struct Status {
    at: Instant,
    pub(super) vcpus: Vec<VcpuPmuReport>,
    /// Totals of the vCPUs that had ended before these were asked: none is
    /// counted twice.
    ended: Totals,
    uncore: Option<UncoreStatus>,
}

impl VmControl {
    /// Control over a VM whose life begins now.
    #[must_use]
    pub fn new(facts: VmFacts, machine: MachineControl) -> Self {
        Self {
            facts,
            started: Instant::now(),
            machine,
            status: None,
        }
    }

    /// Whether the VM is past being told anything.
    pub(super) fn is_ending(&self) -> bool {
        self.machine.stop.reason().is_some()
    }

    pub(super) fn info(&mut self, _: &RouteCall<'_>) -> Response {
        let pmu = self.facts.pmu_backing.clone().map(|backing| PmuInfo {
            backing,
            totals: self.totals(),
            uncounted: self.uncounted(),
        });
        let slots = self.machine.hotplug.reports();
        let count = |fits: fn(&PresenceReport) -> bool| {
            let fitting = slots.iter().filter(|slot| fits(slot)).count();
            u16::try_from(fitting).unwrap_or(u16::MAX)
        };
        let console = self.machine.console.counts();
        let info = Info {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            state: if self.machine.vcpus.is_paused() {
                PowerState::Paused
            } else {
                PowerState::Running
            },
            paused_because: self.machine.host_full.reason(),
            vcpus: count(has_it),
            possible_vcpus: count(|_| true),
            memory_bytes: self.facts.memory_bytes,
            kernel: self.facts.kernel.clone(),
            console: ConsoleInfo {
                sent_bytes: console.sent,
                lost_bytes: console.lost,
            },
            pmu,
        };
        Response::json(200, &info)
    }

    pub(super) fn pmu(&mut self, _: &RouteCall<'_>) -> Response {
        let backing = self.facts.pmu_backing.clone();
        match self.status() {
            Ok(status) => Response::json(
                200,
                &PmuReport {
                    backing,
                    vcpus: status.vcpus.clone(),
                    uncore: status.uncore.clone(),
                },
            ),
            Err(error) => no_answer(&error),
        }
    }

    pub(super) fn pause(&mut self, _: &RouteCall<'_>) -> Response {
        self.status = None;
        match self.machine.pause(VCPU_TIME) {
            Ok(()) => state(200, NewState::Paused),
            Err(error) => Response::error(
                503,
                &format!("{error}; the VM keeps running; pause it again later"),
            ),
        }
    }

    pub(super) fn resume(&mut self, _: &RouteCall<'_>) -> Response {
        self.status = None;
        self.machine.resume();
        state(200, NewState::Running)
    }

    pub(super) fn snapshot(&mut self, call: &RouteCall<'_>) -> Response {
        self.status = None;
        let request: SnapshotRequest = match serde_json::from_slice(call.body) {
            Ok(request) => request,
            Err(error) => {
                let why = format!("the body: {error}; expected: {{\"dir\": \"/absolute/path\"}}");
                return Response::error(400, &why);
            }
        };
        let paths = request.base.iter().chain([&request.dir]);
        if paths.into_iter().any(|path| !path.is_absolute()) {
            let why = "the folder of a snapshot needs an absolute path";
            return Response::error(400, why);
        }
        let order = SaveOrder {
            dir: request.dir,
            stays: request.stop,
            base: request.base,
            track: request.track,
        };
        let was_paused = self.machine.vcpus.is_paused();
        match self.machine.save(&order, VCPU_TIME) {
            Err(error) => {
                let status = match error {
                    SaveError::NoAnswer(_) | SaveError::Hotplug { .. } | SaveError::Ends => 503,
                    _ => 409,
                };
                Response::error(status, &one_line(&error))
            }
            Ok(()) if request.stop => {
                self.machine.stop.stop(StopReason::Saved);
                state(200, NewState::Ending)
            }
            Ok(()) if was_paused => state(200, NewState::Paused),
            Ok(()) => state(200, NewState::Running),
        }
    }

    pub(super) fn shutdown(&mut self, call: &RouteCall<'_>) -> Response {
        let body = call.body;
        let request = if body.is_empty() {
            Ok(ShutdownRequest::default())
        } else {
            serde_json::from_slice(body)
        };
        match request {
            Err(error) => Response::error(
                400,
                &format!("the body: {error}; expected: no body, or {{\"force\": true}}"),
            ),
            Ok(ShutdownRequest { force: true }) => {
                self.machine.stop.stop(StopReason::ApiShutdown);
                state(200, NewState::Ending)
            }
            Ok(ShutdownRequest { force: false }) => self.ask_guest(),
        }
    }

    pub(super) fn vcpus(&mut self, _: &RouteCall<'_>) -> Response {
        let reports = self.machine.hotplug.reports();
        let vcpus = reports.into_iter().map(VcpuSlot::from).collect();
        Response::json(200, &VcpuSlots { vcpus })
    }

    pub(super) fn vcpu(&mut self, call: &RouteCall<'_>) -> Response {
        self.about_vcpu(call, 200, |_, _| Ok(()))
    }

    pub(super) fn add_vcpu(&mut self, call: &RouteCall<'_>) -> Response {
        self.about_vcpu(call, 202, Hotplug::add)
    }

    pub(super) fn remove_vcpu(&mut self, call: &RouteCall<'_>) -> Response {
        self.about_vcpu(call, 202, Hotplug::remove)
    }

    /// Does something to a vCPU, and says where it is then.
    fn about_vcpu(
        &mut self,
        call: &RouteCall<'_>,
        status: u16,
        what: fn(&Hotplug, VcpuId) -> Result<(), HotplugError>,
    ) -> Response {
        let hotplug = &self.machine.hotplug;
        let Ok(number) = call.id.parse() else {
            let why = format!(
                "'{}' is no number of a vCPU; expected: a number below max= of --cpus",
                call.id
            );
            return Response::error(400, &why);
        };
        let vcpu = VcpuId(number);
        let outcome = what(hotplug, vcpu).and_then(|()| Ok(hotplug.report(vcpu)?));
        self.status = None;
        match outcome {
            Ok(slot) => Response::json(status, &VcpuSlot::from(slot)),
            Err(error) => not_done(&error),
        }
    }

    fn ask_guest(&self) -> Response {
        if self.machine.vcpus.is_paused() {
            let why =
                "a paused guest cannot shut itself down; resume it first, or use {\"force\": true}";
            return Response::error(409, why);
        }
        match self.machine.power_button.press() {
            Ok(()) => state(202, NewState::ShutdownRequested),
            Err(error) => Response::error(
                500,
                &format!(
                    "the power button cannot be pressed ({error}); {{\"force\": true}} ends the VM"
                ),
            ),
        }
    }

    /// The totals of all vCPUs so far, removed vCPUs included.
    fn totals(&mut self) -> Option<Totals> {
        let status = self.status().ok()?;
        let mut totals = status.ended;
        for vcpu in &status.vcpus {
            totals += vcpu.pmu.totals;
        }
        Some(totals)
    }

    /// What nobody counts for the vCPUs, removed vCPUs included.
    fn uncounted(&mut self) -> UncountedNames {
        let mut all = self.facts.ended.uncounted();
        if let Ok(status) = self.status() {
            for vcpu in &status.vcpus {
                add_up(&mut all, &vcpu.pmu.uncounted);
            }
        }
        all
    }

    /// Drops the last status of the vCPUs, because it is out of date.
    pub(super) fn forget_status(&mut self) {
        self.status = None;
    }

    /// The last status of the vCPUs, or a new one if the last is too old.
    pub(super) fn status(&mut self) -> Result<&Status, NoAnswer> {
        let old = self.status.take();
        let status = match old.filter(|status| status.at.elapsed() < STATUS_TIME) {
            Some(status) => status,
            None => Status {
                ended: self.facts.ended.get(),
                vcpus: self.ask_vcpus()?,
                uncore: self.facts.uncore.as_ref().map(|uncore| uncore.status()),
                at: Instant::now(),
            },
        };
        Ok(self.status.insert(status))
    }

    fn ask_vcpus(&self) -> Result<Vec<VcpuPmuReport>, NoAnswer> {
        let with_pmu = |report: crate::vcpu::VcpuReport| {
            report.pmu.map(|pmu| VcpuPmuReport {
                vcpu: report.vcpu.0,
                pmu,
            })
        };
        let reports = self.machine.vcpus.reports(VCPU_TIME)?;
        Ok(reports.into_iter().filter_map(with_pmu).collect())
    }
}

/// Whether the guest has the vCPU, or may take it.
const fn has_it(report: &PresenceReport) -> bool {
    match report.presence {
        Presence::Offered | Presence::Present | Presence::AskedToLeave => true,
        Presence::Absent | Presence::Leaving | Presence::Lost => false,
    }
}

fn not_done(error: &HotplugError) -> Response {
    let status = match error {
        HotplugError::Refused(PresenceRefusal::Unknown { .. }) => 404,
        HotplugError::Refused(PresenceRefusal::Lost { .. }) | HotplugError::Start(_) => 500,
        HotplugError::Refused(_) | HotplugError::Paused => 409,
    };
    Response::error(status, &crate::error_text::one_line(error))
}

fn state(status: u16, state: NewState) -> Response {
    Response::json(status, &StateReport { state })
}

pub(super) fn no_answer(error: &NoAnswer) -> Response {
    Response::error(503, &format!("{error}; ask again later"))
}
