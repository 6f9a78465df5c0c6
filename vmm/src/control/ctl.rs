//! `perfvisor ctl`: sends one request and prints its answer as text or as JSON.
//! Adding or removing a vCPU needs the guest: `ctl` then polls until it is done.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::client::{self, ClientError};
use super::report::{
    MigrationRequest, Monitor, MonitorList, MonitorRequest, ShutdownRequest, SnapshotRequest,
    VcpuPlace, VcpuSlot, VcpuSlots, usual_downtime_ms,
};
use super::routes::MIGRATION;
use super::text;
use crate::cli::{
    CtlArgs, CtlCommand, MigrateArgs, MonitorArgs, MonitorCommand, VcpuArgs, VcpuCommand,
};
use crate::error_text::report;
use crate::machine::{MoveReport, MoveStage};

/// Runs the subcommand; an error is one line on standard error and status 1.
#[must_use]
pub fn run(args: &CtlArgs) -> ExitCode {
    match answer(args) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &CtlArgs) -> Result<String, ClientError> {
    let path = Path::new(&args.api_socket);
    let (method, route) = route(&args.command);
    let body = body(&args.command);
    let mut json = client::request(path, method, &route, &body)?;
    if let CtlCommand::Migrate(migrate) = &args.command {
        return moved(path, json, migrate.cancel, args.json);
    }
    if method != "GET"
        && let CtlCommand::Vcpu(vcpu) = &args.command
    {
        json = settled(path, vcpu.command, json)?;
    }
    if args.json {
        return Ok(json);
    }
    match &args.command {
        CtlCommand::Info => read(path, &json).map(|info| text::info(&info)),
        CtlCommand::Pmu => read(path, &json).map(|pmu| text::pmu(&pmu)),
        CtlCommand::Vcpu(VcpuArgs {
            command: VcpuCommand::List,
        }) => {
            let slots: VcpuSlots = read(path, &json)?;
            Ok(slots.vcpus.iter().map(text::vcpu).collect())
        }
        CtlCommand::Vcpu(_) => read(path, &json).map(|slot| text::vcpu(&slot)),
        CtlCommand::Monitor(MonitorArgs {
            command: MonitorCommand::List,
        }) => read(path, &json).map(|list: MonitorList| text::monitors(&list.monitors)),
        CtlCommand::Monitor(_) => {
            read(path, &json).map(|monitor: Monitor| text::monitors(&[monitor]))
        }
        CtlCommand::Pause
        | CtlCommand::Resume
        | CtlCommand::Snapshot(_)
        | CtlCommand::Migrate(_)
        | CtlCommand::Shutdown(_) => read(path, &json).map(|state| text::state(&state)),
    }
}

/// The body of the first request.
fn body(command: &CtlCommand) -> String {
    let json = match command {
        CtlCommand::Shutdown(shutdown) => {
            let force = shutdown.force;
            serde_json::to_string(&ShutdownRequest { force })
        }
        CtlCommand::Snapshot(snapshot) => serde_json::to_string(&SnapshotRequest {
            dir: absolute(&snapshot.dir),
            stop: snapshot.stop,
            base: snapshot.base.as_deref().map(absolute),
            track: snapshot.track,
        }),
        CtlCommand::Migrate(MigrateArgs { to: Some(to), .. }) => {
            serde_json::to_string(&MigrationRequest {
                socket: absolute(&to.socket),
                downtime_ms: to.downtime_ms.unwrap_or_else(usual_downtime_ms),
            })
        }
        CtlCommand::Monitor(MonitorArgs {
            command: MonitorCommand::Add { monitor },
        }) => serde_json::to_string(&MonitorRequest {
            event: monitor.event.clone(),
            policy: monitor.policy,
            vcpu: monitor.vcpu,
        }),
        _ => return String::new(),
    };
    // Plain data always serialises.
    json.unwrap_or_default()
}

/// The VM may have another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Method and path of the first request.
fn route(command: &CtlCommand) -> (&'static str, String) {
    let (method, route) = match command {
        CtlCommand::Info => ("GET", "/info"),
        CtlCommand::Pmu => ("GET", "/pmu"),
        CtlCommand::Pause => ("PUT", "/pause"),
        CtlCommand::Resume => ("PUT", "/resume"),
        CtlCommand::Snapshot(_) => ("PUT", client::SNAPSHOT),
        CtlCommand::Migrate(MigrateArgs { cancel: true, .. }) => ("DELETE", MIGRATION),
        CtlCommand::Migrate(_) => ("PUT", MIGRATION),
        CtlCommand::Shutdown(_) => ("PUT", "/shutdown"),
        CtlCommand::Vcpu(vcpu) => match vcpu.command {
            VcpuCommand::Add { vcpu } => return ("PUT", format!("/vcpus/{vcpu}")),
            VcpuCommand::Remove { vcpu } => return ("DELETE", format!("/vcpus/{vcpu}")),
            VcpuCommand::List => ("GET", "/vcpus"),
        },
        CtlCommand::Monitor(monitor) => match &monitor.command {
            MonitorCommand::Add { .. } => ("POST", "/monitors"),
            MonitorCommand::Remove { monitor } => {
                return ("DELETE", format!("/monitors/{monitor}"));
            }
            MonitorCommand::List => ("GET", "/monitors"),
        },
    };
    (method, route.to_owned())
}

/// Polls until a vCPU has been added or removed, or until the VMM reports why
/// not. The VMM gives the guest a time limit, so this ends; the limit here is for
/// a VMM that does not answer in time.
fn settled(path: &Path, command: VcpuCommand, first: String) -> Result<String, ClientError> {
    const PERIOD: Duration = Duration::from_millis(20);
    const TIME: Duration = Duration::from_secs(60);
    let (vcpu, wanted) = match command {
        VcpuCommand::Add { vcpu } => (vcpu, VcpuPlace::Present),
        VcpuCommand::Remove { vcpu } => (vcpu, VcpuPlace::Absent),
        VcpuCommand::List => return Ok(first),
    };
    let (start, mut json) = (Instant::now(), first);
    loop {
        let slot: VcpuSlot = read(path, &json)?;
        let over = start.elapsed() > TIME;
        match slot.failure {
            _ if slot.state == wanted => return Ok(json),
            // An addition that failed is undone first.
            Some(why) if slot.state.is_settled() || wanted == VcpuPlace::Absent || over => {
                return Err(ClientError::Refused(why));
            }
            _ if slot.state.is_settled() || over => {
                let where_is = text::vcpu(&slot);
                return Err(ClientError::Refused(where_is.trim_end().to_owned()));
            }
            _ => {}
        }
        thread::sleep(PERIOD);
        json = client::request(path, "GET", &format!("/vcpus/{vcpu}"), "")?;
    }
}

/// Prints a line for each round of a migration, until it has ended; returns its last line.
/// A migration that somebody cancels is an error, but to whoever `cancels` it.
fn moved(path: &Path, first: String, cancels: bool, as_json: bool) -> Result<String, ClientError> {
    const PERIOD: Duration = Duration::from_millis(50);
    let (mut json, mut last) = (first, None);
    loop {
        let report: MoveReport = read(path, &json)?;
        let this = (report.stage, report.round);
        if !report.stage.is_on() {
            let text = text::migration(&report);
            return match report.stage {
                MoveStage::Failed => Err(ClientError::Refused(text)),
                MoveStage::Cancelled if !cancels => Err(ClientError::Refused(text)),
                _ if as_json => Ok(json),
                _ => Ok(text),
            };
        }
        if last.replace(this) != Some(this) && !as_json {
            print(&text::migration(&report));
        }
        thread::sleep(PERIOD);
        json = client::request(path, "GET", MIGRATION, "")?;
    }
}

fn read<T: DeserializeOwned>(path: &Path, json: &str) -> Result<T, ClientError> {
    serde_json::from_str(json).map_err(|_| ClientError::NoHttp {
        path: path.to_owned(),
    })
}

/// `println!` would panic on a closed pipe.
fn print(text: &str) {
    use std::io::Write;
    // Nobody reads it: nothing to be done.
    drop(writeln!(std::io::stdout(), "{}", text.trim_end()));
}
