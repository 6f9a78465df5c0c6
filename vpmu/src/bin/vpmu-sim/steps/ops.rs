//! The operations that a step may name.

use serde_json::Value;

use crate::scenario::text_of;

/// Which function executes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpKind {
    Open,
    /// On the event that the key `ev` names; the result is success or an errno.
    Event,
    /// On the event that the key `ev` names; the result has values.
    Read,
    Task,
    Sleep,
    Timer,
    Cpu,
    CpuMask,
    State,
}

/// All operations, in the order of `docs/scenario.md`, section 5.
const OPS: [(&str, OpKind); 26] = [
    ("open", OpKind::Open),
    ("close", OpKind::Event),
    ("enable", OpKind::Event),
    ("disable", OpKind::Event),
    ("reset", OpKind::Event),
    ("refresh", OpKind::Event),
    ("period", OpKind::Event),
    ("ioctl", OpKind::Event),
    ("read", OpKind::Read),
    ("overflow", OpKind::Event),
    ("run", OpKind::Task),
    ("stop", OpKind::Task),
    ("switch", OpKind::Task),
    ("move", OpKind::Task),
    ("exit", OpKind::Task),
    ("fork", OpKind::Task),
    ("sleep", OpKind::Sleep),
    ("rotations", OpKind::Timer),
    ("rotate", OpKind::Timer),
    ("set_mux", OpKind::Timer),
    ("offline", OpKind::Cpu),
    ("online", OpKind::Cpu),
    ("perf_exit_cpu", OpKind::Cpu),
    ("perf_init_cpu", OpKind::Cpu),
    ("cpumask", OpKind::CpuMask),
    ("state", OpKind::State),
];

/// The operation of a step.
///
/// # Errors
/// The step names no operation or an unknown one, or an operation on an event
/// without the name of an event. The text has the accepted operations.
pub(crate) fn op_of(step: &Value) -> Result<(&str, OpKind), String> {
    let accepted = || OPS.map(|(name, _)| name).join(", ");
    let Some(op) = step.get("op") else {
        return Err(format!("no op; accepted: {}", accepted()));
    };
    let found = OPS.iter().find(|(name, _)| op.as_str() == Some(name));
    let Some((name, kind)) = found else {
        return Err(format!("unknown op {op}; accepted: {}", accepted()));
    };
    let on_event = matches!(kind, OpKind::Event | OpKind::Read);
    if on_event && text_of(step, "ev").is_none() {
        return Err(format!("{name} needs the key ev: the name of an event"));
    }
    Ok((name, *kind))
}
