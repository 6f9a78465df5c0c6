//! The API's requests for monitors: add, remove, list.

use std::sync::Arc;

use vpmu::AttachError;
use vpmu::ids::{MonitorId, VcpuId};

use super::http::Response;
use super::report::{Monitor, MonitorCount, MonitorList, MonitorRequest};
use super::routes::RouteCall;
use super::vm::{Status, VCPU_TIME, VmControl, no_answer};
use crate::config::event;
use crate::pmu::monitors::{MonitorSpec, VmMonitors};
use crate::vcpu::{MonitorOrder, MonitorStatus};

impl VmControl {
    pub(super) fn monitors(&mut self, _: &RouteCall<'_>) -> Response {
        let all = match &self.facts.monitors {
            Some(monitors) => monitors.all(),
            None => Vec::new(),
        };
        match self.status() {
            Ok(status) => {
                let with_counts = |(id, spec): &_| monitor(*id, spec, counts(status, *id));
                let monitors = all.iter().map(with_counts).collect();
                Response::json(200, &MonitorList { monitors })
            }
            Err(error) => no_answer(&error),
        }
    }

    pub(super) fn add_monitor(&mut self, call: &RouteCall<'_>) -> Response {
        let spec = match spec(call.body) {
            Ok(spec) => spec,
            Err(why) => return Response::error(400, &why),
        };
        let list = match self.list() {
            Ok(list) => list,
            Err(response) => return response,
        };
        if let Some(vcpu) = spec.vcpu
            && self.machine.hotplug.report(vcpu).is_err()
        {
            let why = format!("there is no vCPU {vcpu}; expected: a number below max= of --cpus");
            return Response::error(404, &why);
        }
        let Some(id) = list.add(spec) else {
            let why = format!(
                "there are {} monitors, the maximum; remove a monitor first",
                MonitorId::MAX
            );
            return Response::error(409, &why);
        };
        match self.order(&spec, MonitorOrder::Attach(id, spec.attr, spec.policy)) {
            Ok(counts) => Response::json(201, &monitor(id, &spec, counts)),
            Err(response) => {
                list.remove(id);
                // Those that have it are asked in vain if they do not answer: they
                // do as told before anything else.
                drop(self.order(&spec, MonitorOrder::Detach(id)));
                response
            }
        }
    }

    pub(super) fn remove_monitor(&mut self, call: &RouteCall<'_>) -> Response {
        let list = match self.list() {
            Ok(list) => list,
            Err(response) => return response,
        };
        let id = call.id.parse().ok().and_then(MonitorId::new);
        let Some((id, spec)) = id.and_then(|id| Some((id, list.remove(id)?))) else {
            let why = format!(
                "there is no monitor '{}'; use a number that perfvisor ctl monitor list shows",
                call.id
            );
            return Response::error(404, &why);
        };
        match self.order(&spec, MonitorOrder::Detach(id)) {
            Ok(counts) => Response::json(200, &monitor(id, &spec, counts)),
            // It is gone from the list, and from that vCPU as soon as it looks.
            Err(response) => response,
        }
    }

    fn list(&self) -> Result<Arc<VmMonitors>, Response> {
        let list = self.facts.monitors.clone();
        list.ok_or_else(|| {
            let why = "the guest has no PMU, so a monitor cannot be attached; use a VM that was \
                       started without --pmu off";
            Response::error(409, why)
        })
    }

    /// Has the vCPUs do it that the monitor is for; returns what each says.
    fn order(
        &mut self,
        spec: &MonitorSpec,
        order: MonitorOrder,
    ) -> Result<Vec<(u16, MonitorStatus)>, Response> {
        self.forget_status();
        let answers = self.machine.vcpus.monitor(spec.vcpu, order, VCPU_TIME);
        let mut counts = Vec::new();
        for (vcpu, outcome) in answers.map_err(|error| no_answer(&error))? {
            match outcome {
                Ok(status) => counts.extend(status.map(|status| (vcpu.0, status))),
                Err(error) => return Err(refused(spec, vcpu, &error)),
            }
        }
        Ok(counts)
    }
}

/// The readings of one monitor, from each vCPU that has it.
fn counts(status: &Status, id: MonitorId) -> impl Iterator<Item = (u16, MonitorStatus)> {
    status.vcpus.iter().filter_map(move |vcpu| {
        let mut all = vcpu.pmu.monitors.iter();
        let found = all.find(|monitor| usize::from(monitor.monitor) == id.index())?;
        Some((vcpu.vcpu, found.clone()))
    })
}

fn refused(spec: &MonitorSpec, vcpu: VcpuId, error: &AttachError) -> Response {
    let why = format!(
        "vCPU {vcpu} cannot count {}: {error}; perfvisor ctl info shows the backing of the counters",
        spec.event()
    );
    Response::error(409, &why)
}

fn spec(body: &[u8]) -> Result<MonitorSpec, String> {
    let request: MonitorRequest = serde_json::from_slice(body).map_err(|error| {
        format!(
            "the body: {error}; expected: {{\"event\": \"cycles\"}}, optionally with \"policy\" and \"vcpu\""
        )
    })?;
    let attr = event::with_levels(&request.event).ok_or_else(|| {
        let accepted = event::accepted();
        format!("'{}' is no event; accepted: {accepted}", request.event)
    })?;
    Ok(MonitorSpec {
        attr,
        policy: request.policy.into(),
        vcpu: request.vcpu.map(VcpuId),
    })
}

fn monitor(
    id: MonitorId,
    spec: &MonitorSpec,
    counts: impl IntoIterator<Item = (u16, MonitorStatus)>,
) -> Monitor {
    let count = |(vcpu, status): (u16, MonitorStatus)| MonitorCount {
        vcpu,
        reading: status.reading,
    };
    Monitor {
        monitor: u8::try_from(id.index()).unwrap_or(u8::MAX),
        event: spec.event(),
        policy: spec.policy.into(),
        vcpu: spec.vcpu.map(|vcpu| vcpu.0),
        counts: counts.into_iter().map(count).collect(),
    }
}
