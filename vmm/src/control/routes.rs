//! The routes: which method and path call which handler.

use std::sync::Arc;

use super::http::{Request, Response};
use super::vm::VmControl;

/// The parts of a request besides the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteCall<'a> {
    /// The part of the path that stands for `{id}`.
    pub(super) id: &'a str,
    pub(super) body: &'a [u8],
}

type Run = fn(&mut VmControl, &RouteCall<'_>) -> Response;

/// A path and a method of the API, with the function that serves them.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    run: Run,
}

const fn route(method: &'static str, path: &'static str, run: Run) -> Route {
    Route { method, path, run }
}

/// The path of a migration.
pub(super) const MIGRATION: &str = "/migration";

/// The part of a path that a request fills in, always the last.
const ID: &str = "{id}";

impl Route {
    /// Whether it pauses the guest or changes the machine, which one does at a time.
    fn changes_vm(&self) -> bool {
        self.method != "GET" && self.path != MIGRATION
    }

    /// What stands for `{id}`, empty if nothing does; `None` if the path is
    /// another.
    fn id_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix(ID) {
            None => (self.path == path).then_some(""),
            Some(start) => {
                let id = path.strip_prefix(start)?;
                (!id.is_empty() && !id.contains('/')).then_some(id)
            }
        }
    }
}

/// Everything that the API does. Putting the VM into a state twice is doing it
/// once; a vCPU that is there or on its way is refused, since two who want it
/// want to know.
pub(super) const ROUTES: [Route; 16] = [
    route("GET", "/info", VmControl::info),
    route("GET", "/pmu", VmControl::pmu),
    route("PUT", "/pause", VmControl::pause),
    route("PUT", "/resume", VmControl::resume),
    route("PUT", "/snapshot", VmControl::snapshot),
    route("GET", MIGRATION, VmControl::migration),
    route("PUT", MIGRATION, VmControl::migrate),
    route("DELETE", MIGRATION, VmControl::cancel_migration),
    route("PUT", "/shutdown", VmControl::shutdown),
    route("GET", "/vcpus", VmControl::vcpus),
    route("GET", "/vcpus/{id}", VmControl::vcpu),
    route("PUT", "/vcpus/{id}", VmControl::add_vcpu),
    route("DELETE", "/vcpus/{id}", VmControl::remove_vcpu),
    route("GET", "/monitors", VmControl::monitors),
    route("POST", "/monitors", VmControl::add_monitor),
    route("DELETE", "/monitors/{id}", VmControl::remove_monitor),
];

/// Answers a request.
pub(super) fn dispatch(vm: &mut VmControl, request: &Request) -> Response {
    match find(&request.method, &request.path) {
        Ok(_) if vm.is_ending() => Response::error(503, "the VM is ending"),
        Ok((route, id)) => {
            let mover = Arc::clone(&vm.machine.mover);
            let turn = mover.try_turn();
            if turn.is_none() && route.changes_vm() {
                let why = "the VM stands for a moment, as it is being moved; try again, or end that by perfvisor ctl migrate --cancel";
                return Response::error(409, why);
            }
            let body = &request.body;
            (route.run)(vm, &RouteCall { id, body })
        }
        Err(response) => response,
    }
}

fn find<'a>(method: &str, path: &'a str) -> Result<(&'static Route, &'a str), Response> {
    let fits = |route: &'static Route| route.id_in(path).map(|id| (route, id));
    let methods: Vec<_> = ROUTES.iter().filter_map(fits).collect();
    if let Some(found) = methods.iter().find(|(route, _)| route.method == method) {
        return Ok(*found);
    }
    if methods.is_empty() {
        let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        paths.dedup();
        let why = format!("there is no such path; accepted: {}", paths.join(", "));
        return Err(Response::error(404, &why));
    }
    let allow: Vec<_> = methods.iter().map(|(route, _)| route.method).collect();
    let allow = allow.join(", ");
    let mut response = Response::error(
        405,
        &format!("{path} does not take {method}; accepted: {allow}"),
    );
    response.allow = Some(allow);
    Err(response)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::report::*;
    use super::*;
    use crate::config::MonitorPolicy;
    use crate::machine::MoveReport;
    use crate::pmu::{
        UncoreCounterStatus, UncoreInstanceStatus, UncoreLogEntry, UncorePmuStatus, UncoreStatus,
    };
    use crate::vcpu::MonitorStatus;
    use crate::vcpu::{CounterStatus, UncountedNames, VcpuPmuStatus};

    fn openapi() -> Value {
        serde_json::from_str(include_str!("../../openapi.json")).unwrap()
    }

    #[test]
    fn the_document_has_exactly_these_routes() {
        let document = openapi();
        let mut written = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{path} {method}");
                let responses = operation["responses"].as_object().unwrap();
                let good = responses.keys().any(|status| status.starts_with('2'));
                assert!(good, "{path} {method}");
                let takes_id = operation["parameters"][0]["name"] == "id";
                assert_eq!(takes_id, path.ends_with(ID), "{path} {method}");
                written.insert((method.to_uppercase(), path.clone()));
            }
        }
        let ours: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| (route.method.to_owned(), route.path.to_owned()))
            .collect();
        assert_eq!(written, ours);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    /// Every field of `sample`, all of which are set, is a property of the
    /// schema, and nothing else is.
    fn matches_schema(name: &str, sample: &impl serde::Serialize) {
        let document = openapi();
        let properties = &document["components"]["schemas"][name]["properties"];
        let sample = serde_json::to_value(sample).unwrap();
        assert_eq!(keys(properties), keys(&sample), "{name}");
    }

    #[test]
    fn the_document_has_exactly_these_fields() {
        let totals = vpmu::Totals::default();
        let counter = CounterStatus {
            event: Some(String::new()),
            host_event: Some(String::new()),
            why: Some(String::new()),
            ..CounterStatus::default()
        };
        let backing = "host PMU cpu".to_owned();
        let pmu = PmuInfo {
            backing,
            totals: Some(totals),
            uncounted: UncountedNames::default(),
        };
        matches_schema("PmuTotals", &totals);
        matches_schema("Counter", &counter);
        matches_schema("PmuInfo", &pmu);
        let vcpu = VcpuPmuReport {
            vcpu: 0,
            pmu: VcpuPmuStatus::default(),
        };
        matches_schema("VcpuPmu", &vcpu);
        let (backing, vcpus) = (None, vec![vcpu]);
        let uncore = Some(UncoreStatus::default());
        let report = PmuReport {
            backing,
            vcpus,
            uncore,
        };
        matches_schema("Pmu", &report);
        the_document_has_exactly_these_uncore_fields();
        let state = NewState::Paused;
        matches_schema("State", &StateReport { state });
        matches_schema("Shutdown", &ShutdownRequest::default());
        matches_schema("Snapshot", &SnapshotRequest::default());
        the_document_has_exactly_these_fields_of_a_migration();
        let info = Info {
            name: String::new(),
            version: String::new(),
            pid: 1,
            uptime_ms: 0,
            state: PowerState::Running,
            paused_because: None,
            vcpus: 1,
            possible_vcpus: 2,
            memory_bytes: 0,
            kernel: "k".into(),
            console: ConsoleInfo::default(),
            pmu: Some(pmu),
        };
        matches_schema("Info", &info);
        matches_schema("ConsoleInfo", &info.console);
        the_document_has_exactly_these_monitor_fields();
        let vcpu = VcpuSlot {
            vcpu: 1,
            state: VcpuPlace::Present,
            failure: Some(String::new()),
        };
        matches_schema("Vcpu", &vcpu);
        matches_schema("Vcpus", &VcpuSlots { vcpus: vec![vcpu] });
    }

    fn the_document_has_exactly_these_fields_of_a_migration() {
        let (socket, downtime_ms) = ("s".into(), usual_downtime_ms());
        matches_schema(
            "MigrationRequest",
            &MigrationRequest {
                socket,
                downtime_ms,
            },
        );
        matches_schema("Migration", &MoveReport::default());
    }

    fn the_document_has_exactly_these_monitor_fields() {
        matches_schema("VcpuMonitor", &MonitorStatus::default());
        let request = MonitorRequest {
            event: "cycles".to_owned(),
            policy: MonitorPolicy::Pinned,
            vcpu: Some(0),
        };
        matches_schema("MonitorRequest", &request);
        matches_schema("MonitorCount", &MonitorCount::default());
        let monitor = Monitor {
            vcpu: Some(0),
            ..Monitor::default()
        };
        matches_schema("Monitor", &monitor);
        let monitors = vec![monitor];
        matches_schema("Monitors", &MonitorList { monitors });
    }

    fn the_document_has_exactly_these_uncore_fields() {
        matches_schema("Uncore", &UncoreStatus::default());
        matches_schema("ScopedPmu", &UncorePmuStatus::default());
        let instance = UncoreInstanceStatus {
            designated: Some(0),
            ..UncoreInstanceStatus::default()
        };
        matches_schema("ScopedInstance", &instance);
        let counter = UncoreCounterStatus {
            event: Some(String::new()),
            host_event: Some(String::new()),
            why: Some(String::new()),
            vcpu: Some(0),
            ..UncoreCounterStatus::default()
        };
        matches_schema("ScopedCounter", &counter);
        let entry = UncoreLogEntry {
            counter: Some(String::new()),
            from: Some(0),
            to: Some(1),
            count: Some(2),
            ..UncoreLogEntry::default()
        };
        matches_schema("ScopedLogEntry", &entry);
    }

    #[test]
    fn errors_name_what_would_work() {
        let error = |method, path| {
            let response = find(method, path).unwrap_err();
            (
                response.status,
                response.allow.clone(),
                String::from_utf8(response.body).unwrap(),
            )
        };
        let (status, allow, text) = error("GET", "/vm");
        assert_eq!((status, allow), (404, None));
        assert!(text.contains("/info, /pmu, /pause"), "{text}");
        let (status, allow, text) = error("POST", "/pause");
        assert_eq!((status, allow.as_deref()), (405, Some("PUT")));
        assert!(
            text.contains("/pause does not take POST; accepted: PUT"),
            "{text}"
        );
        assert_eq!(error("get", "/info").0, 405);
        assert!(find("GET", "/info").is_ok());
        assert_eq!(error("PUT", "/vcpus").0, 405);
        let (status, allow, _) = error("POST", "/vcpus/3");
        assert_eq!((status, allow.as_deref()), (405, Some("GET, PUT, DELETE")));
        for path in ["/vcpus/", "/vcpus/3/", "/vcpus/3/4", "/vcpu/3", "/info/3"] {
            assert_eq!(error("PUT", path).0, 404, "{path}");
        }
        let (route, id) = find("DELETE", "/vcpus/3x").unwrap();
        assert_eq!((route.path, id), ("/vcpus/{id}", "3x"));
    }
}
