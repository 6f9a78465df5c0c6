//! The command line of `vpmu-sim`: which stream each text goes to, exit
//! statuses, the check of `op`, and the timeline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]
#![cfg(feature = "sim")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// What one run of `vpmu-sim` printed, and its exit status.
struct Ran {
    stdout: String,
    stderr: String,
    status: Option<i32>,
}

fn sim(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_vpmu-sim"))
        .args(args)
        .output()
        .unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code(),
    }
}

/// Writes a scenario file; each test has names of its own.
fn file(name: &str, text: &str) -> String {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sim");
    std::fs::create_dir_all(&dir).unwrap();
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

/// A scenario with one PMU, one task and these steps.
fn scenario(name: &str, steps: &Value) -> String {
    let text = json!({
        "name": name,
        "pmus": [{"name": "core", "counters": 2}],
        "tasks": [{"name": "T", "cpu": 1}],
        "steps": steps,
    });
    file(&format!("{name}.json"), &text.to_string())
}

/// The words of the line of the timeline's table that is about an event.
fn row<'a>(timeline: &'a str, event: &str) -> Vec<&'a str> {
    let words = |l: &'a str| l.split_whitespace().collect::<Vec<_>>();
    let mut rows = timeline.lines().map(words);
    rows.find(|w| w.first() == Some(&event)).unwrap_or_default()
}

#[test]
fn each_kind_of_bad_scenario_is_reported_on_stderr_alone() {
    let text = file("text.json", "no JSON");
    let nameless = file("nameless.json", "{}");
    let pmu = file("pmu.json", r#"{"name":"p","pmus":[{"kind":"hw"}]}"#);
    let steps = scenario("bad_steps", &json!([{"op": "run", "task": "nobody"}]));
    for (bad, says) in [
        ("/nonexistent/scenario.json", "No such file"),
        (&text, "expected"),
        (&nameless, "a scenario needs a name"),
        (&pmu, "a PMU needs a name"),
        (&steps, "step 0"),
    ] {
        for mode in [&[][..], &["--timeline"]] {
            let ran = sim(&[mode, &[bad]].concat());
            assert_eq!(ran.stdout, "", "{bad} {mode:?}");
            assert!(ran.stderr.starts_with("vpmu-sim: "), "{}", ran.stderr);
            assert!(ran.stderr.contains(bad), "{}", ran.stderr);
            assert!(ran.stderr.contains(says), "{}", ran.stderr);
            assert_eq!(ran.status, Some(1), "{bad} {mode:?}");
        }
    }
}

#[test]
fn a_bad_scenario_does_not_keep_the_others_from_running() {
    let before = scenario("before", &json!([{"op": "sleep", "ms": 1}]));
    let bad = scenario("between", &json!([{"op": "stop", "task": "nobody"}]));
    let after = scenario("after", &json!([{"op": "sleep", "ms": 2}]));
    let ran = sim(&[&before, &bad, &after]);
    let lines = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap());
    let names: Vec<Value> = lines.map(|v: Value| v["scenario"].clone()).collect();
    assert_eq!(names, ["before", "after"]);
    assert!(ran.stderr.contains("scenario between"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert_eq!(ran.status, Some(1));
}

#[test]
fn a_step_whose_call_fails_is_a_result() {
    let steps = json!([
        {"op": "open", "ev": "a", "pmu": "core", "cpu": 1, "task": "T", "group_fd": 99},
        {"op": "enable", "ev": "a"},
    ]);
    let ran = sim(&[&scenario("errno", &steps)]);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(line["steps"][0]["ret"], "EBADF");
    assert_eq!(line["steps"][1]["ret"], "skip");
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.status, Some(0));
}

#[test]
fn a_misspelt_op_is_an_error_that_lists_the_accepted_ones() {
    let open = json!({"op": "open", "ev": "a", "pmu": "core", "cpu": 1});
    for (i, wrong) in [
        // Without an event, on an event that is open, and on one that is not.
        json!({"op": "slep", "ms": 1}),
        json!({"op": "enabel", "ev": "a"}),
        json!({"op": "opne", "ev": "b", "pmu": "core", "cpu": 1}),
        json!({"op": "opne", "ev": "b", "group": "a"}),
        json!({"ev": "b"}),
        json!({"op": 7}),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("misspelt_{i}");
        let ran = sim(&[&scenario(&name, &json!([open, wrong]))]);
        assert_eq!(ran.stdout, "", "{wrong}");
        assert_eq!(ran.status, Some(1), "{wrong}");
        let named = match wrong.get("op") {
            Some(op) => format!("op {op}"),
            None => "no op".into(),
        };
        for part in [&*name, "step 1", &*named, "accepted: open, close, enable,"] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_step_on_an_event_needs_the_name_of_one() {
    let open = json!({"op": "open", "ev": "a", "pmu": "core", "cpu": 1});
    for op in ["enable", "read"] {
        let steps = json!([open, {"op": op}]);
        let ran = sim(&[&scenario(&format!("nameless_{op}"), &steps)]);
        assert_eq!(ran.stdout, "");
        let says = format!("step 1: {op} needs the key ev");
        assert!(ran.stderr.contains(&says), "{}", ran.stderr);
        assert_eq!(ran.status, Some(1));
    }
}

#[test]
fn other_steps_run_if_the_event_that_they_name_is_open() {
    let steps = json!([
        {"op": "open", "ev": "a", "pmu": "core", "cpu": 1},
        {"op": "sleep", "ev": "a", "ms": 1},
        {"op": "sleep", "ev": "b", "ms": 1},
    ]);
    let ran = sim(&[&scenario("other_steps", &steps)]);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    let ret = |i: usize| (&line["steps"][i]["ret"], &line["steps"][i]["t"]);
    assert_eq!(ret(1), (&json!("ok"), &json!(1_000_000)));
    assert_eq!(ret(2), (&json!("skip"), &json!(1_000_000)));
}

#[test]
fn the_timeline_shows_events_that_never_ran() {
    let starved = file(
        "starved_group.json",
        include_str!("data/starved_group.json"),
    );
    let ran = sim(&["--timeline", &starved]);
    assert_eq!(
        row(&ran.stdout, "event"),
        ["event", "enabled", "running", "percent"]
    );
    for (event, enabled, running, percent) in [
        ("lead", "25", "0", "0"),
        ("sib", "25", "0", "0"),
        ("pinned", "25", "25", "100"),
        ("watch", "30", "30", "100"),
    ] {
        let want = [event, enabled, "ms", running, "ms", percent, "%"];
        assert_eq!(row(&ran.stdout, event), want, "{}", ran.stdout);
    }
    assert_eq!((ran.stderr.as_str(), ran.status), ("", Some(0)));
}

#[test]
fn the_timeline_shows_events_when_nothing_ever_ran() {
    let steps = json!([
        {"op": "open", "ev": "off", "pmu": "core", "cpu": 1, "disabled": true},
        {"op": "open", "ev": "blocked", "pmu": "core", "task": "T"},
        {"op": "sleep", "ms": 3},
    ]);
    let ran = sim(&["--timeline", &scenario("idle", &steps)]);
    assert!(ran.stdout.starts_with("nothing was ever on a counter\n"));
    // There is no share of no time.
    for event in ["off", "blocked"] {
        let want = [event, "0", "ms", "0", "ms", "-"];
        assert_eq!(row(&ran.stdout, event), want, "{}", ran.stdout);
    }
}

#[test]
fn the_timeline_has_shares_and_events_that_were_closed() {
    let steps = json!([
        {"op": "open", "ev": "old", "pmu": "core", "cpu": 1},
        {"op": "sleep", "ms": 2},
        {"op": "close", "ev": "old"},
        {"op": "open", "ev": "a", "pmu": "core", "cpu": 1},
        {"op": "open", "ev": "b", "pmu": "core", "cpu": 1},
        {"op": "open", "ev": "c", "pmu": "core", "cpu": 1},
        {"op": "sleep", "ms": 10},
        {"op": "read", "ev": "a"},
        {"op": "read", "ev": "b"},
        {"op": "read", "ev": "c"},
    ]);
    let path = scenario("shares", &steps);
    let timeline = sim(&["--timeline", &path]).stdout;
    let want = ["old", "2", "ms", "2", "ms", "100", "%"];
    assert_eq!(row(&timeline, "old"), want, "{timeline}");
    let result: Value = serde_json::from_str(&sim(&[&path]).stdout).unwrap();
    for step in &result["steps"].as_array().unwrap()[7..] {
        let (enabled, running) = (
            step["enabled"].as_u64().unwrap(),
            step["running"].as_u64().unwrap(),
        );
        assert!(running < enabled && running % 1_000_000 == 0);
        let share = running * 100 / enabled;
        let want = [
            step["ev"].as_str().unwrap(),
            "10",
            "ms",
            &format!("{}", running / 1_000_000),
            "ms",
            &format!("{share}"),
            "%",
        ];
        assert_eq!(row(&timeline, want[0]), want, "{timeline}");
    }
}

#[test]
fn every_recorded_scenario_has_a_timeline() {
    let data = include_str!("data/scenarios.jsonl");
    let lines = data.lines().map(|l| serde_json::from_str(l).unwrap());
    let files = lines.enumerate().map(|(i, line): (usize, Value)| {
        file(
            &format!("recorded_{i:03}.json"),
            &line["scenario"].to_string(),
        )
    });
    let files: Vec<String> = files.collect();
    let mut args = vec!["--timeline"];
    args.extend(files.iter().map(String::as_str));
    let ran = sim(&args);
    assert_eq!((ran.stderr.as_str(), ran.status), ("", Some(0)));
    let starts = |l: &&str| l.starts_with("0 to ") || l.starts_with("nothing was ever on");
    assert_eq!(ran.stdout.lines().filter(starts).count(), files.len());
}

#[test]
fn help_goes_to_stdout_and_a_bad_command_line_to_stderr() {
    let help = sim(&["--help"]);
    assert_eq!((help.stderr.as_str(), help.status), ("", Some(0)));
    for flag in ["--timeline", "--trace", "--designated", "--help"] {
        assert!(help.stdout.contains(flag), "{}", help.stdout);
    }
    let bad = sim(&["--timelin", "x.json"]);
    assert_eq!((bad.stdout.as_str(), bad.status), ("", Some(2)));
    assert!(bad.stderr.starts_with("vpmu-sim: unknown option --timelin"));
}
