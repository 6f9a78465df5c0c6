//! The bodies of the API, for the server and for `perfvisor ctl` alike.
//! `openapi.json` describes them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpmu::Totals;

use crate::config::MonitorPolicy;
use crate::pmu::UncoreStatus;
use crate::vcpu::presence::{Presence, PresenceReport};
use crate::vcpu::{MonitorReading, UncountedNames, VcpuPmuStatus};

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// The guest may run.
    Running,
    /// Every vCPU has stopped.
    Paused,
}

/// `GET /info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// `perfvisor`.
    pub name: String,
    /// The version of Perfvisor.
    pub version: String,
    /// The process id of the VMM.
    pub pid: u32,
    /// Time since the VM was built, ms.
    pub uptime_ms: u64,
    /// Whether the guest runs.
    pub state: PowerState,
    /// Why it is paused, if nobody has ordered it: the host's disk is full.
    #[serde(default)]
    pub paused_because: Option<String>,
    /// The number of vCPUs that are plugged in.
    pub vcpus: u16,
    /// The number of possible vCPUs: `max=` of `--cpus`.
    pub possible_vcpus: u16,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// The kernel image.
    pub kernel: PathBuf,
    /// What the guest printed on its console.
    #[serde(default)]
    pub console: ConsoleInfo,
    /// The PMU; `null` if the guest has none.
    pub pmu: Option<PmuInfo>,
}

/// The console in [`Info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleInfo {
    /// Bytes that were written to standard output or the file.
    pub sent_bytes: u64,
    /// Bytes that were lost: nobody read them, or the host refused them.
    pub lost_bytes: u64,
}

/// The PMU in [`Info`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmuInfo {
    /// The source of the counts, in the same words as in the log at the start.
    pub backing: String,
    /// Sums over the vCPUs so far, those that were removed included; `null` if
    /// one of them does not answer.
    pub totals: Option<Totals>,
    /// The events that the guest wanted and that nobody counts, of the same vCPUs.
    pub uncounted: UncountedNames,
}

/// `GET /pmu`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmuReport {
    /// The source of the counts; `null` if the guest has no PMU.
    pub backing: Option<String>,
    /// Each vCPU that has a PMU.
    pub vcpus: Vec<VcpuPmuReport>,
    /// The uncore PMUs, which vCPUs share; `null` if the guest has none.
    pub uncore: Option<UncoreStatus>,
}

/// One vCPU in [`PmuReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuPmuReport {
    /// The number of the vCPU.
    pub vcpu: u16,
    /// Its counters and totals.
    #[serde(flatten)]
    pub pmu: VcpuPmuStatus,
}

/// `GET /monitors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorList {
    /// Each monitor.
    pub monitors: Vec<Monitor>,
}

/// One monitor: of `GET` and `POST /monitors`, and as it was at the end of
/// `DELETE /monitors/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// The number of the monitor.
    pub monitor: u8,
    /// The event that the monitor counts.
    pub event: String,
    /// The rule by which the monitor gets host counters.
    pub policy: MonitorPolicy,
    /// The only vCPU that it is for; absent if it is for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u16>,
    /// The count on each vCPU that the monitor is attached to.
    pub counts: Vec<MonitorCount>,
}

/// The count of a monitor on one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorCount {
    /// The vCPU.
    pub vcpu: u16,
    /// The count there, with its state and times.
    #[serde(flatten)]
    pub reading: MonitorReading,
}

/// The body of `POST /monitors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorRequest {
    /// The event to count.
    pub event: String,
    /// How it competes for host counters.
    #[serde(default)]
    pub policy: MonitorPolicy,
    /// The only vCPU; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u16>,
}

/// `GET /vcpus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSlots {
    /// Every vCPU that there can be.
    pub vcpus: Vec<VcpuSlot>,
}

/// One possible vCPU: the answer to `GET`, `PUT` and `DELETE /vcpus/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSlot {
    /// Its number.
    pub vcpu: u16,
    /// Whether the vCPU is plugged in, or on its way in or out.
    pub state: VcpuPlace,
    /// The reason why the last request failed; absent if it did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The place of a vCPU between absent and plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VcpuPlace {
    /// Not plugged in.
    Absent,
    /// The guest has been told of it and has not taken it yet.
    Inserting,
    /// The guest has it.
    Present,
    /// The guest was asked to let it go.
    Removing,
    /// The guest has let it go; its thread ends.
    Ejecting,
}

impl VcpuPlace {
    /// Whether it stays there if nobody does anything.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Absent | Self::Present)
    }
}

impl From<Presence> for VcpuPlace {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Absent | Presence::Lost => Self::Absent,
            Presence::Offered => Self::Inserting,
            Presence::Present => Self::Present,
            Presence::AskedToLeave => Self::Removing,
            Presence::Leaving => Self::Ejecting,
        }
    }
}

impl From<PresenceReport> for VcpuSlot {
    fn from(report: PresenceReport) -> Self {
        Self {
            vcpu: report.vcpu.0,
            state: report.presence.into(),
            failure: report.failure,
        }
    }
}

/// The answer to `PUT /pause`, `/resume` and `/shutdown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// The state after the request.
    pub state: NewState,
}

/// The state of a VM after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewState {
    /// The guest may run.
    Running,
    /// Every vCPU stands.
    Paused,
    /// The guest was asked to power off; it may take its time, or refuse.
    ShutdownRequested,
    /// The VM ends now.
    Ending,
}

/// The body of `PUT /snapshot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The folder, which is not there yet: an absolute path.
    pub dir: PathBuf,
    /// End the VM when it is saved.
    #[serde(default)]
    pub stop: bool,
    /// Save only the pages that were written since this snapshot, which the new one needs:
    /// the last one with `track` or `base`, an absolute path.
    #[serde(default)]
    pub base: Option<PathBuf>,
    /// Note from now on which pages are written, so that this one can be a base.
    #[serde(default)]
    pub track: bool,
}

/// The body of `PUT /migration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationRequest {
    /// The socket of the destination: an absolute path.
    pub socket: PathBuf,
    /// The longest time that the guest may stand, ms.
    #[serde(default = "usual_downtime_ms")]
    pub downtime_ms: u64,
}

/// The time that a guest may stand when it moves, ms, if nobody says.
#[must_use]
pub(super) const fn usual_downtime_ms() -> u64 {
    300
}

/// The body of `PUT /shutdown`; none at all is all defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// End the VM now instead of asking the guest.
    #[serde(default)]
    pub force: bool,
}
