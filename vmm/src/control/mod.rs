//! The control API: HTTP/1.1 over a Unix socket that only its owner may open.
//!
//! ```text
//!  perfvisor ctl ─▶ socket (0600) ─▶ server: one thread, non-blocking
//!      client          │                │ connection: limits, deadlines
//!                      │                ▼
//!                      │              http: bytes ─▶ Request | HttpRefusal
//!                      │                ▼
//!                      └─ removed     routes ─▶ vm, monitors: VmControl ─▶ vCPU mailboxes, hot-plug, stop, power button
//!                         at the end
//! ```
//! The server never touches what a vCPU thread owns: it asks by mailbox and
//! waits for an answer, for a bounded time. `openapi.json` beside this crate's
//! manifest describes the routes; a test compares the two.

mod client;
mod connection;
mod ctl;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod http;
mod migration;
mod monitors;
mod report;
mod routes;
mod server;
mod text;
mod uncore_text;
mod vm;

pub use client::ClientError;
pub use ctl::run as ctl;
pub use report::{
    Info, MigrationRequest, Monitor, MonitorCount, MonitorList, MonitorRequest, NewState, PmuInfo,
    PmuReport, PowerState, ShutdownRequest, SnapshotRequest, StateReport, VcpuPlace, VcpuPmuReport,
    VcpuSlot, VcpuSlots,
};
pub use server::ControlServer;
pub use vm::{VmControl, VmFacts};
