//! Result lines.

use std::fmt::Write;

use serde_json::Value;

/// A JSON string.
pub(crate) fn quote(s: &str) -> String {
    Value::from(s).to_string()
}

/// The line of a run.
pub(crate) fn result(name: &str, steps: &[StepResult]) -> String {
    let mut out = format!(
        "{{\"scenario\":{},\"kernel\":\"vpmu-sim\",\"clock\":\"virtual\",\"steps\":[",
        quote(name)
    );
    for (i, step) in steps.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&step.text);
        out.push('}');
    }
    out.push_str("],\"warnings\":[]}");
    out
}

/// The result of one step, being written.
#[derive(Debug)]
pub(crate) struct StepResult {
    text: String,
}

impl StepResult {
    pub(crate) fn new(i: usize, op: &str, event: Option<&str>) -> Self {
        let mut text = format!("{{\"i\":{i},\"op\":{}", quote(op));
        if let Some(e) = event {
            let _ = write!(text, ",\"ev\":{}", quote(e));
        }
        Self { text }
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(&mut self, key: &str, json: impl std::fmt::Display) {
        let _ = write!(self.text, ",\"{key}\":{json}");
    }

    /// A string member.
    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.raw(key, quote(value));
    }
}

/// CPUs as sysfs lists them: `0,4` or `0-3`.
pub(crate) fn cpu_list(cpus: impl Iterator<Item = u16>) -> String {
    let mut out = String::new();
    let mut run: Option<(u16, u16)> = None;
    let mut flush = |run: (u16, u16)| {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = if run.0 == run.1 {
            write!(out, "{comma}{}", run.0)
        } else {
            write!(out, "{comma}{}-{}", run.0, run.1)
        };
    };
    for cpu in cpus {
        run = match run {
            Some((a, b)) if b + 1 == cpu => Some((a, cpu)),
            Some(r) => {
                flush(r);
                Some((cpu, cpu))
            }
            None => Some((cpu, cpu)),
        };
    }
    if let Some(r) = run {
        flush(r);
    }
    out
}
