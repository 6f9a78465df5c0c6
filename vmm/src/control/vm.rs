//! What the API can do to a VM.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::http::Response;
use super::report::{
    Info, NewState, PmuInfo, PmuReport, PowerState, ShutdownRequest, StateReport, VcpuReport,
};
use crate::machine::MachineControl;
use crate::pmu::{PmuTotals, VcpuPmuStatus};
use crate::stop::StopReason;
use crate::vcpu::NoAnswer;

/// How long the vCPUs may take to stand, or to answer.
const VCPU_TIME: Duration = Duration::from_secs(2);
/// For how long a status is good: a client that asks without end leaves the
/// guest alone for this long between two kicks.
const STATUS_TIME: Duration = Duration::from_millis(10);

/// What does not change while a VM runs.
#[derive(Clone, Debug)]
pub struct VmFacts {
    /// vCPUs.
    pub vcpus: u16,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// The kernel image.
    pub kernel: PathBuf,
    /// What backs the PMU; `None` if the guest has none.
    pub pmu_backing: Option<String>,
}

/// A VM as the API sees it.
#[derive(Debug)]
pub struct VmControl {
    facts: VmFacts,
    started: Instant,
    machine: MachineControl,
    status: Option<Status>,
}

#[derive(Debug)]
struct Status {
    at: Instant,
    vcpus: Vec<VcpuReport>,
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

    pub(super) fn info(&mut self, _body: &[u8]) -> Response {
        let pmu = self.facts.pmu_backing.clone().map(|backing| PmuInfo {
            backing,
            totals: self.status().ok().map(sum),
        });
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
            vcpus: self.facts.vcpus,
            memory_bytes: self.facts.memory_bytes,
            kernel: self.facts.kernel.clone(),
            pmu,
        };
        Response::json(200, &info)
    }

    pub(super) fn pmu(&mut self, _body: &[u8]) -> Response {
        let backing = self.facts.pmu_backing.clone();
        match self.status() {
            Ok(vcpus) => Response::json(
                200,
                &PmuReport {
                    backing,
                    vcpus: vcpus.to_vec(),
                },
            ),
            Err(error) => no_answer(&error),
        }
    }

    pub(super) fn pause(&mut self, _body: &[u8]) -> Response {
        self.status = None;
        match self.machine.vcpus.pause(VCPU_TIME) {
            Ok(()) => state(200, NewState::Paused),
            Err(error) => Response::error(
                503,
                &format!("{error}; the VM runs on, pause it again when it answers"),
            ),
        }
    }

    pub(super) fn resume(&mut self, _body: &[u8]) -> Response {
        self.status = None;
        self.machine.vcpus.resume();
        state(200, NewState::Running)
    }

    pub(super) fn shutdown(&mut self, body: &[u8]) -> Response {
        let request = if body.is_empty() {
            Ok(ShutdownRequest::default())
        } else {
            serde_json::from_slice(body)
        };
        match request {
            Err(error) => Response::error(
                400,
                &format!("the body: {error}; accepted: nothing, or {{\"force\": true}}"),
            ),
            Ok(ShutdownRequest { force: true }) => {
                self.machine.stop.stop(StopReason::ApiShutdown);
                state(200, NewState::Ending)
            }
            Ok(ShutdownRequest { force: false }) => self.ask_guest(),
        }
    }

    fn ask_guest(&self) -> Response {
        if self.machine.vcpus.is_paused() {
            let why =
                "a paused guest cannot shut itself down: resume it first, or use {\"force\": true}";
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

    /// What the vCPUs said last, or say now.
    fn status(&mut self) -> Result<&[VcpuReport], NoAnswer> {
        let old = self.status.take();
        let status = match old.filter(|status| status.at.elapsed() < STATUS_TIME) {
            Some(status) => status,
            None => Status {
                vcpus: self.ask_vcpus()?,
                at: Instant::now(),
            },
        };
        Ok(&self.status.insert(status).vcpus)
    }

    fn ask_vcpus(&self) -> Result<Vec<VcpuReport>, NoAnswer> {
        let with_pmu = |report: crate::vcpu::VcpuReport| {
            report.pmu.map(|pmu| VcpuReport {
                vcpu: report.vcpu.0,
                pmu,
            })
        };
        let reports = self.machine.vcpus.reports(VCPU_TIME)?;
        Ok(reports.into_iter().filter_map(with_pmu).collect())
    }
}

fn sum(vcpus: &[VcpuReport]) -> PmuTotals {
    vcpus
        .iter()
        .map(|vcpu| &vcpu.pmu)
        .map(|pmu: &VcpuPmuStatus| pmu.totals)
        .reduce(PmuTotals::plus)
        .unwrap_or_default()
}

fn state(status: u16, state: NewState) -> Response {
    Response::json(status, &StateReport { state })
}

fn no_answer(error: &NoAnswer) -> Response {
    Response::error(503, &format!("{error}; ask again when it answers"))
}
