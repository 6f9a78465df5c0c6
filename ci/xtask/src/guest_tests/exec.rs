//! `perfvisor exec` on a host that is a Debian 13, as a user who may open /dev/kvm and
//! nothing else: with a guest kernel of each of Debian's releases.

use anyhow::ensure;

use super::{GuestTest, Runs};
use crate::perf;

/// Files of the line, in /images.
const FILES: [(&str, &str); 3] = [
    ("inside.sh", include_str!("exec/inside.sh")),
    ("loop.c", include_str!("exec/loop.c")),
    ("threads.py", include_str!("exec/threads.py")),
];

/// The guest kernels: the first two by their place, the third is that of another release.
const KERNELS: [&str; 3] = ["6.1", "6.12", "7"];

/// Shell functions of the host, whose line is root's: `as_user` runs a line as the user, in
/// an empty folder `work`; `exec` there is perfvisor's. `left` says what of the user's is
/// there: processes, and files outside of that folder.
const HOST: &str = "\
    cd /tmp; \
    as_user() { setpriv --reuid 1000 --regid 1000 --init-groups --reset-env sh -c \"cd ~/work; $1\"; }; \
    left() { ps -u user -o args= | grep -v 'ps -u'; \
             find /tmp /run /var/tmp /dev/shm /home/user -user user -not -path '/home/user/work*'; }; \
    rm -rf /home/user/work; mkdir /home/user/work; \
    cp /images/inside.sh /images/loop.c /images/threads.py /home/user/work; \
    echo told by the host >/home/user/work/from-host; chown -R user: /home/user; ";

/// Every test of `exec`.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all: Vec<_> = KERNELS.map(inside).into();
    all.extend(KERNELS.map(ends));
    all.push(interrupted());
    all
}

fn row(name: &str, kernel: &str, line: &str, check: super::Check) -> GuestTest {
    let line = line.replace(
        "KERNEL",
        &format!("--kernel $(echo /boot/vmlinuz-{kernel}.*)"),
    );
    GuestTest {
        runs: Runs::OnHost,
        debian: true,
        files: &FILES,
        limit: 300,
        on_request: "exec/",
        ..GuestTest::new(format!("exec/{name}"), format!("{HOST}{line}"), check)
    }
}

/// What a command finds, does and leaves behind. Its standard input is at its end.
fn inside(kernel: &'static str) -> GuestTest {
    row(
        &format!("inside/guest-{kernel}"),
        kernel,
        "left >before; as_user 'perfvisor exec KERNEL --cpus 2 -- sh inside.sh </dev/null 2>/tmp/errors'; echo status=$?; \
         left >after; cmp before after && echo nothing-left; \
         echo file=$(cat /home/user/work/from-guest) of $(stat -c %U /home/user/work/from-guest); \
         test -e /etc/from-guest || echo etc-untouched; \
         for data in loop python; do echo \"=== report $data\"; perf report -i /home/user/work/$data.data --force --stdio 2>/dev/null | grep -v '^#' | grep . | head -n 5; done; \
         echo '=== errors'; cat /tmp/errors",
        |seen, test| {
            for line in [
                "uid=1000 gid=1000 groups=1000 994",
                "pwd=/home/user/work home=/home/user",
                "from-host=told by the host",
                "stdin=0",
                "compiled",
                "python counted 200000",
                "recorded=loop",
                "recorded=python",
                "status=3",
                "nothing-left",
                "file=written in the guest of user",
                "etc-untouched",
            ] {
                seen.says(line)?;
            }
            let series = test.name.rsplit('-').next().unwrap_or_default();
            seen.shows(&format!("release={series}."))?;
            let counted = perf::section(&seen.console, "stat")?;
            ensure!(perf::counts(counted, "cycles").len() == 1, "{counted}");
            let python = counted.lines().find_map(|l| l.strip_prefix("python,"));
            let cycles = perf::counts(python.unwrap_or_default(), "cycles");
            ensure!(cycles.first().is_some_and(|n| *n > 0.0), "{counted}");
            let report = perf::section(&seen.console, "report loop")?;
            ensure!(report.contains("hot_loop"), "the host's report: {report}");
            let report = perf::section(&seen.console, "report python")?;
            ensure!(report.contains("python3"), "the host's report: {report}");
            let (out, errors) = seen.console.split_once("=== errors\n").unwrap_or_default();
            ensure!(!out.contains("said-on-stderr"), "a stream is in another");
            ensure!(errors.contains("said-on-stderr"), "stderr: {errors}");
            Ok(())
        },
    )
}

/// The statuses of a command's ends, and 16 MiB that go in and come out again.
fn ends(kernel: &'static str) -> GuestTest {
    row(
        &format!("ends/guest-{kernel}"),
        kernel,
        "head -c 16777216 /dev/urandom >/tmp/bytes; chmod 644 /tmp/bytes; \
         as_user \"perfvisor exec KERNEL --user root -- sh -c 'echo x >/etc/from-guest && cat' </tmp/bytes\" >/tmp/out; echo piped=$?; \
         [ $(md5sum </tmp/bytes | cut -c-32) = $(md5sum </tmp/out | cut -c-32) ] && echo same-bytes; \
         test -e /etc/from-guest || echo etc-untouched; \
         as_user \"perfvisor exec KERNEL -- sh -c 'kill -9 \\$\\$'\"; echo killed=$?; \
         as_user 'perfvisor exec KERNEL --timeout 15 -- sleep 1000'; echo late=$?",
        |seen, _| {
            for line in [
                "piped=0",
                "same-bytes",
                "etc-untouched",
                "killed=137",
                "late=124",
            ] {
                seen.says(line)?;
            }
            Ok(())
        },
    )
}

/// Ctrl-C, typed at a terminal, is the command's, and nothing is left of it.
fn interrupted() -> GuestTest {
    row(
        "ctrl-c",
        "6.12",
        "left >before; rm -f /tmp/typed; touch /tmp/typed; \
         (until grep -q began /tmp/typed; do sleep 0.2; done; sleep 1; printf '\\003'; \
          until grep -q status= /tmp/typed; do sleep 0.2; done) | \
         { as_user \"script -qefc 'perfvisor exec KERNEL -- sh -c \\\"echo began; sleep 1000\\\"' /dev/null\"; echo status=$?; } >/tmp/typed; \
         left >after; cmp before after && echo nothing-left; cat /tmp/typed",
        |seen, _| {
            seen.says("status=130")?;
            seen.says("nothing-left")
        },
    )
}
