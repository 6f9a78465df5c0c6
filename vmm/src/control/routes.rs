//! Which path does what.
//!
//! A resource with a number, such as a vCPU that comes and goes, would be
//! `/vcpus/{id}` with PUT and DELETE.

use super::http::{Request, Response};
use super::vm::VmControl;

/// One thing that the API does.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    run: fn(&mut VmControl, &[u8]) -> Response,
}

const fn route(
    method: &'static str,
    path: &'static str,
    run: fn(&mut VmControl, &[u8]) -> Response,
) -> Route {
    Route { method, path, run }
}

/// Everything that the API does. What changes the VM is PUT: doing it twice is
/// doing it once.
pub(super) const ROUTES: [Route; 5] = [
    route("GET", "/info", VmControl::info),
    route("GET", "/pmu", VmControl::pmu),
    route("PUT", "/pause", VmControl::pause),
    route("PUT", "/resume", VmControl::resume),
    route("PUT", "/shutdown", VmControl::shutdown),
];

/// Answers a request.
pub(super) fn dispatch(vm: &mut VmControl, request: &Request) -> Response {
    match find(&request.method, &request.path) {
        Ok(_) if vm.is_ending() => Response::error(503, "the VM is ending"),
        Ok(route) => (route.run)(vm, &request.body),
        Err(response) => response,
    }
}

fn find(method: &str, path: &str) -> Result<&'static Route, Response> {
    let methods: Vec<_> = ROUTES.iter().filter(|route| route.path == path).collect();
    if let Some(route) = methods.iter().find(|route| route.method == method) {
        return Ok(route);
    }
    if methods.is_empty() {
        let paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        let why = format!("there is no such path; there is {}", paths.join(", "));
        return Err(Response::error(404, &why));
    }
    let allow: Vec<_> = methods.iter().map(|route| route.method).collect();
    let allow = allow.join(", ");
    let mut response = Response::error(405, &format!("{path} takes {allow}"));
    response.allow = Some(allow);
    Err(response)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::report::*;
    use super::*;
    use crate::pmu::{CounterStatus, PmuTotals, VcpuPmuStatus};

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
                assert!(operation["responses"]["200"].is_object(), "{path} {method}");
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
        let totals = PmuTotals::default();
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
        };
        matches_schema("PmuTotals", &totals);
        matches_schema("Counter", &counter);
        matches_schema("PmuInfo", &pmu);
        let vcpu = VcpuReport {
            vcpu: 0,
            pmu: VcpuPmuStatus::default(),
        };
        matches_schema("VcpuPmu", &vcpu);
        let (backing, vcpus) = (None, vec![vcpu]);
        matches_schema("Pmu", &PmuReport { backing, vcpus });
        let state = NewState::Paused;
        matches_schema("State", &StateReport { state });
        matches_schema("Shutdown", &ShutdownRequest::default());
        let info = Info {
            name: String::new(),
            version: String::new(),
            pid: 1,
            uptime_ms: 0,
            state: PowerState::Running,
            vcpus: 1,
            memory_bytes: 0,
            kernel: "k".into(),
            pmu: Some(pmu),
        };
        matches_schema("Info", &info);
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
        assert!(text.contains("/pause takes PUT"), "{text}");
        assert_eq!(error("get", "/info").0, 405);
        assert!(find("GET", "/info").is_ok());
    }
}
