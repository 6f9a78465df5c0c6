//! The simulator against what Linux 6.12 did with the same scenarios, at level
//! 2 of the oracle: returns, values, clock and states, to the nanosecond.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const KEYS: [&str; 8] = [
    "ret", "pmu", "nr", "enabled", "running", "values", "cpumask", "t",
];

/// The first difference in a scenario.
fn compare(expected: &Value, actual: &Value) -> Result<(), String> {
    let none = Vec::new();
    let steps = |v: &Value| v["steps"].as_array().cloned().unwrap_or_default();
    let (want, have) = (steps(expected), steps(actual));
    let mut states: BTreeMap<String, Value> = BTreeMap::new();
    for (i, (w, h)) in want.iter().zip(&have).enumerate() {
        for key in KEYS {
            if w.get(key) != h.get(key) {
                return Err(format!(
                    "step {i}: {key}: expected {:?}, actual {:?}",
                    w.get(key),
                    h.get(key)
                ));
            }
        }
        for (name, state) in w["state"].as_object().into_iter().flatten() {
            if state.is_null() {
                states.remove(name);
            } else {
                states.insert(name.clone(), state.clone());
            }
        }
        let mut shown = BTreeMap::new();
        for (name, state) in h["state"].as_object().into_iter().flatten() {
            // Counter numbers are not part of level 2.
            let list = state.as_array().unwrap_or(&none);
            let kept = list
                .iter()
                .enumerate()
                .filter(|(k, _)| *k != 3)
                .map(|(_, v)| v.clone());
            shown.insert(name.clone(), Value::Array(kept.collect()));
        }
        if states != shown {
            return Err(format!(
                "step {i} ({}): expected {states:?}, actual {shown:?}",
                h["op"]
            ));
        }
    }
    if want.len() == have.len() {
        Ok(())
    } else {
        Err(format!("{} steps instead of {}", have.len(), want.len()))
    }
}

fn check(data: &str, dir: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(dir);
    std::fs::create_dir_all(&dir).unwrap();
    let lines: Vec<Value> = data
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let mut files = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let file = dir.join(format!("{i:04}.json"));
        std::fs::write(&file, line["scenario"].to_string()).unwrap();
        files.push(file);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_vpmu-sim"))
        .args(&files)
        .output()
        .unwrap();
    // A scenario that cannot be run has no line, only an error.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let results: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let mut differ = Vec::new();
    for (line, result) in lines.iter().zip(&results) {
        if let Err(e) = compare(line, result) {
            differ.push(format!("{}: {e}", line["scenario"]["name"]));
        }
    }
    assert!(
        differ.is_empty(),
        "{} of {} differ:\n{}",
        differ.len(),
        lines.len(),
        differ.join("\n")
    );
    assert_eq!(results.len(), lines.len(), "{errors}");
}

#[test]
fn the_59_scenarios_are_as_linux_has_them() {
    check(include_str!("data/scenarios.jsonl"), "scenarios");
}

#[test]
fn the_300_random_scenarios_are_as_linux_has_them() {
    check(include_str!("data/corpus.jsonl"), "corpus");
}
