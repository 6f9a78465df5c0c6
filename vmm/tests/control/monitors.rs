//! Monitors, on the clock-derived PMU.

use super::*;

fn monitors(vm: &Vm) -> Vec<Value> {
    let list = vm.ask(&["monitor", "list"]);
    list["monitors"].as_array().unwrap().clone()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap()
}

fn error(vm: &Vm, args: &[&str], status: i32) -> String {
    let output = vm.ctl(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_monitor_agrees_with_the_guests_own_counter() {
    let Some(vm) = Vm::start_watched("watch", &counting(), "type=software", &["--cpus", "boot=2"])
    else {
        return;
    };
    while vm.printed() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    vm.tell(&["pause"]);
    let before = number(fixed1(&vm.ask(&["pmu"])), "value");
    let text = vm.tell(&["monitor", "add", "cycles,policy=pinned"]);
    assert!(
        text.starts_with("monitor 0: cycles, pinned, all vCPUs\n"),
        "{text}"
    );
    vm.tell(&["resume"]);
    thread::sleep(Duration::from_millis(500));
    vm.tell(&["pause"]);
    let pmu = vm.ask(&["pmu"]);
    let guest = number(fixed1(&pmu), "value") - before;
    let [monitor] = &monitors(&vm)[..] else {
        panic!("one was attached");
    };
    let (first, second) = (&monitor["counts"][0], &monitor["counts"][1]);
    assert!(guest > 0);
    assert!(
        guest.abs_diff(number(first, "count")) <= 2,
        "{guest}: {first}"
    );
    assert_eq!(first["count"], first["scaled_count"]);
    assert_eq!(first["enabled_ns"], first["running_ns"]);
    assert_eq!(
        (&first["state"], &first["clock_derived"]),
        (&"counting".into(), &true.into())
    );
    // It waits for INIT, which takes KVM a moment of the thread's time.
    assert_eq!(second["vcpu"], 1);
    assert!(number(second, "count") < guest / 10, "{second}");
    assert_eq!(pmu["vcpus"][0]["monitors"][0]["count"], first["count"]);
    let text = vm.tell(&["pmu"]);
    assert!(text.contains("monitor0  counting  -"), "{text}");
    let end = vm.ask(&["monitor", "remove", "0"]);
    assert_eq!(end["counts"][0]["count"], first["count"]);
    assert!(monitors(&vm).is_empty());
    assert_eq!(
        vm.ask(&["pmu"])["vcpus"][0]["monitors"],
        Value::Array(vec![])
    );
    assert_eq!(vm.end().0, Some(0));
}

#[test]
fn a_guest_that_counts_nothing_is_counted_and_so_is_a_vcpu_that_comes() {
    let flags = ["--cpus", "boot=1,max=2"];
    let Some(vm) = Vm::start_watched("alone", &ticking(), "type=software", &flags) else {
        return;
    };
    vm.tell(&["monitor", "add", "ref-cycles"]);
    vm.tell(&["monitor", "add", "cycles:k,vcpu=1"]);
    vm.goes_on();
    let start = Instant::now();
    while number(&monitors(&vm)[0]["counts"][0], "count") == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing is counted");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        monitors(&vm)[1]["counts"],
        Value::Array(vec![]),
        "no such vCPU yet"
    );
    let answer = raw(&vm, b"PUT /vcpus/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status_of(&answer), 202, "{answer}");
    let [all, second] = &monitors(&vm)[..] else {
        panic!("two were attached");
    };
    assert_eq!(all["counts"][1]["vcpu"], 1);
    assert_eq!(second["counts"][0]["vcpu"], 1);
    assert_eq!(second["counts"][0]["sampled"], true);
    assert_eq!(vm.end().0, Some(0));
}

#[test]
fn what_cannot_be_attached_is_told_and_leaves_nothing() {
    let Some(vm) = Vm::start("refuse", &ticking(), "type=software", &["--cpus", "boot=2"]) else {
        return;
    };
    for event in ["instructions", "r1d1"] {
        let text = error(&vm, &["monitor", "add", event], 1);
        assert!(
            text.contains(&format!("vCPU 0 cannot count {event}")),
            "{text}"
        );
    }
    assert!(monitors(&vm).is_empty());
    let text = error(&vm, &["monitor", "add", "cycle"], 2);
    assert!(
        text.contains("'cycle' is no event; accepted: cycles"),
        "{text}"
    );
    let text = error(&vm, &["monitor", "add", "cycles,vcpu=2"], 1);
    assert!(text.contains("there is no vCPU 2"), "{text}");
    let text = error(&vm, &["monitor", "remove", "0"], 1);
    assert!(text.contains("there is no monitor '0'"), "{text}");
    for _ in 0..8 {
        vm.tell(&["monitor", "add", "cycles"]);
    }
    let text = error(&vm, &["monitor", "add", "cycles"], 1);
    assert!(text.contains("there are 8 monitors"), "{text}");
    vm.tell(&["monitor", "remove", "5"]);
    let text = vm.tell(&["monitor", "add", "cycles"]);
    assert!(text.starts_with("monitor 5:"), "{text}");
    for (body, advice) in [
        ("", "expected: "),
        ("{}", "expected: "),
        ("{\"event\": \"cycles\", \"cpu\": 1}", "expected: "),
        ("{\"event\": \"x\"}", "accepted: "),
    ] {
        let request = format!(
            "POST /monitors HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(&vm, request.as_bytes());
        assert_eq!(status_of(&answer), 400, "{answer}");
        assert!(answer.contains(advice), "{answer}");
    }
    assert_eq!(vm.end().0, Some(0));
}

#[test]
fn a_vm_without_a_pmu_has_no_monitors() {
    let Some(vm) = Vm::start("unwatched", &halted(), "off", &[]) else {
        return;
    };
    assert!(monitors(&vm).is_empty());
    let text = error(&vm, &["monitor", "add", "cycles"], 1);
    assert!(text.contains("the guest has no PMU"), "{text}");
    assert_eq!(vm.end().0, Some(0));
}
