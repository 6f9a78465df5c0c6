//! `perfvisor exec` on a host that is a Debian 13, as a user who may open /dev/kvm and
//! nothing else: with a guest kernel of each of Debian's releases.

mod boot;
mod refused;

use anyhow::{Result, ensure};

use super::{Check, GuestTest, Runs, Seen};
use crate::perf;

/// Files of the line, in /images.
const FILES: [(&str, &str); 8] = [
    ("inside.sh", include_str!("exec/inside.sh")),
    ("loop.c", include_str!("exec/loop.c")),
    ("threads.py", include_str!("exec/threads.py")),
    ("threads.c", include_str!("exec/threads.c")),
    ("serve.pl", include_str!("exec/serve.pl")),
    ("fetch.pl", include_str!("exec/fetch.pl")),
    ("end.c", include_str!("exec/end.c")),
    ("archive.py", include_str!("archive.py")),
];

/// The guest kernels: the first two by their place, the third is that of another release.
const KERNELS: [&str; 3] = ["6.1", "6.12", "7"];
/// The kernel of rows that are about something else.
const KERNEL: &str = "6.12";

/// Shell functions of the host, whose line is root's: `as_user` runs a line as the user, in
/// an empty folder `work`. `left` says what of the user's is there: processes, and files
/// outside of that folder and of perf's own.
const HOST: &str = "\
    cd /tmp; \
    as_user() { setpriv --reuid 1000 --regid 1000 --init-groups --reset-env sh -c \"cd ~/work; $1\"; }; \
    left() { ps -u user -o args= | grep -v 'ps -u'; \
             find /tmp /run /var/tmp /dev/shm /home/user -user user \
               -not -path '/home/user/work*' -not -path '/home/user/.debug*'; }; \
    rm -rf /home/user/work /home/user/.debug; mkdir /home/user/work; \
    rm -f before after errors out bytes typed server; \
    for file in inside.sh loop.c threads.c threads.py serve.pl fetch.pl; do cp /images/$file /home/user/work; done; \
    echo told by the host >/home/user/work/from-host; chown -R user: /home/user; ";

/// A guest that is up sooner than the default one.
const SMALL: &str = "--cpus 1 --memory 256M";

/// Every test of `exec`.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = vec![refused::all(), interrupted(), network(), two_cpus()];
    all.extend([
        flame_graph(),
        backend_dies(),
        huge_pages(),
        flags(),
        signals(),
    ]);
    all.extend(KERNELS.map(inside));
    all.extend(KERNELS.map(ends));
    all.extend(KERNELS.map(least_memory));
    all.extend(boot::all());
    all
}

fn row(name: &str, kernel: &str, line: &str, check: Check) -> GuestTest {
    let line = line.replace(
        "KERNEL",
        &format!("--kernel $(echo /boot/vmlinuz-{kernel}.*)"),
    );
    GuestTest {
        runs: Runs::OnHost,
        debian: true,
        files: &FILES,
        limit: 300,
        ..GuestTest::new(
            format!("exec/{name}"),
            format!("{HOST}{}", line.replace("SMALL", SMALL)),
            check,
        )
    }
}

/// What a command finds, does and leaves behind. Its standard input is at its end.
fn inside(kernel: &'static str) -> GuestTest {
    row(
        &format!("inside/guest-{kernel}"),
        kernel,
        "left >before; as_user 'perfvisor exec KERNEL -- sh inside.sh' </dev/null 2>/tmp/errors; echo status=$?; \
         left >after; cmp before after && echo nothing-left; \
         echo file=$(cat /home/user/work/from-guest) of $(stat -c %U /home/user/work/from-guest); \
         test -e /etc/from-guest || echo etc-untouched; \
         echo '=== report'; as_user 'perf report -i loop.data --stdio --percent-limit 0.3' 2>&1 | grep -v '^#' | grep . | head -n 12; \
         ls /home/user/work; \
         echo '=== errors'; cat /tmp/errors",
        |seen, test| {
            seen.says_each(&[
                "uid=1000 gid=1000 groups=1000 994",
                "pwd=/home/user/work home=/home/user",
                "from-host=told by the host",
                "stdin=0",
                "compiled",
                "python counted 20000",
                "recorded=loop",
                "recorded=python",
                "python.data",
                "status=3",
                "nothing-left",
                "file=written in the guest of user",
                "etc-untouched",
            ])?;
            let series = test.name.rsplit('-').next().unwrap_or_default();
            seen.shows(&format!("release={series}."))?;
            let counted = perf::section(&seen.console, "stat")?;
            ensure!(perf::counts(counted, "cycles").len() == 1, "{counted}");
            let python = counted.lines().find_map(|l| l.strip_prefix("python,"));
            let cycles = perf::counts(python.unwrap_or_default(), "cycles");
            ensure!(cycles.first().is_some_and(|n| *n > 0.0), "{counted}");
            let report = perf::section(&seen.console, "report")?;
            ensure!(report.contains("hot_loop"), "the host's report: {report}");
            kernel_is_named(report)?;
            errors_are_apart(seen)
        },
    )
}

/// That perf report has functions of the kernel, each with its name.
fn kernel_is_named(report: &str) -> Result<()> {
    let kernel = report.lines().filter_map(|line| line.split_once("[k] "));
    let names: Vec<_> = kernel.map(|(_, name)| name).collect();
    ensure!(!names.is_empty(), "nothing of the kernel: {report}");
    let unnamed = names.iter().any(|name| name.starts_with("0x"));
    ensure!(!unnamed, "the kernel has no names: {report}");
    Ok(())
}

fn errors_are_apart(seen: &Seen) -> Result<()> {
    let (out, errors) = seen.console.split_once("=== errors\n").unwrap_or_default();
    ensure!(!out.contains("said-on-stderr"), "a stream is in another");
    ensure!(errors.contains("said-on-stderr"), "stderr: {errors}");
    Ok(())
}

/// The statuses of a command's ends, and 16 MiB that go in and come out again. The command
/// that ends late waits beside the others.
fn ends(kernel: &'static str) -> GuestTest {
    row(
        &format!("ends/guest-{kernel}"),
        kernel,
        "(as_user 'perfvisor exec KERNEL SMALL --timeout 15 -- sleep 1000'; echo late=$? >late) & \
         head -c 16777216 /dev/urandom >/tmp/bytes; chmod 644 /tmp/bytes; \
         as_user \"perfvisor exec KERNEL SMALL --user root -- sh -c 'echo x >/etc/from-guest && cat' </tmp/bytes\" >/tmp/out; echo piped=$?; \
         [ $(md5sum </tmp/bytes | cut -c-32) = $(md5sum </tmp/out | cut -c-32) ] && echo same-bytes; \
         test -e /etc/from-guest || echo etc-untouched; \
         as_user \"perfvisor exec KERNEL SMALL -- sh -c 'kill -9 \\$\\$'\"; echo killed=$?; \
         wait; cat late",
        |seen, _| {
            seen.says_each(&[
                "piped=0",
                "same-bytes",
                "etc-untouched",
                "killed=137",
                "late=124",
            ])
        },
    )
}

/// A guest with two vCPUs, and a program with two threads: perf counts both.
fn two_cpus() -> GuestTest {
    row(
        "cpus-2",
        KERNEL,
        "as_user 'gcc -O1 -pthread -o threads threads.c; perfvisor exec KERNEL --cpus 2 --memory 256M -- \
           sh -c \"echo cpus=\\$(nproc); echo === stat; perf stat -x, -e cycles,task-clock ./threads 2>&1\"'; echo status=$?",
        |seen, _| {
            seen.says_each(&["cpus=2", "threads counted 40000000", "status=0"])?;
            let counted = perf::section(&seen.console, "stat")?;
            let cycles = perf::counts(counted, "cycles").first().copied();
            // A loop's turn is more than a cycle on any CPU.
            ensure!(cycles.is_some_and(|n| n > 40e6), "{counted}");
            Ok(())
        },
    )
}

/// Memory that is a file, more of it than lies below the hole for devices: each of its two
/// parts has huge pages, and the guest finds and uses all of it.
fn huge_pages() -> GuestTest {
    GuestTest {
        on_request: "huge-pages",
        ..row(
            "huge-pages",
            KERNEL,
            "(cd /home/user/work; until [ -e ready ]; do sleep 0.2; done; \
              awk '/guest-memory/ { at = $3 } /^ShmemPmdMapped:/ && at != \"\" { print \"huge from=\" at \" KiB=\" $2; at = \"\" }' \
                /proc/$(pgrep -x perfvisor)/smaps; touch seen) & \
             as_user \"perfvisor exec KERNEL --cpus 1 --memory 4G -- sh -c 'sed -n \\\"s/^MemTotal: *//p\\\" /proc/meminfo; \
               head -c 67108864 /dev/zero | tr \\\"\\\\000\\\" x >/tmp/xs; md5sum </tmp/xs; \
               touch ready; until [ -e seen ]; do sleep 0.2; done'\"; echo status=$?",
            |seen, _| {
                seen.says("status=0")?;
                // Of 64 MiB of this letter.
                seen.says("de506679685541efcb501eac224adc64  -")?;
                let lines = || seen.console.lines();
                let total = lines().find_map(|line| line.strip_suffix(" kB")?.parse::<u64>().ok());
                ensure!(
                    total.is_some_and(|kib| kib > 3_900_000),
                    "memory: {total:?} KiB"
                );
                for offset in ["00000000", "c0000000"] {
                    let start = format!("huge from={offset} KiB=");
                    let huge =
                        lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
                    ensure!(
                        huge.is_some_and(|kib| kib >= 16 << 10),
                        "{offset}: {huge:?} KiB"
                    );
                }
                Ok(())
            },
        )
    }
}

/// The least memory, which a refusal names, is enough for a command.
fn least_memory(kernel: &'static str) -> GuestTest {
    GuestTest {
        on_request: if kernel == KERNEL { "" } else { "least-memory" },
        ..row(
            &format!("least-memory/guest-{kernel}"),
            kernel,
            "least=$(as_user 'perfvisor exec KERNEL --cpus 1 --memory 32M -- true' 2>&1 | grep -o 'at least [0-9]*' | tr -dc 0-9); \
             as_user \"perfvisor exec KERNEL --cpus 1 --memory ${least}M -- sh -c 'echo enough; exit 3'\"; echo status=$? least=$least; \
             as_user \"perfvisor exec KERNEL --cpus 1 --memory $((least - 1))M -- true\"; echo less=$?",
            |seen, _| {
                seen.says("enough")?;
                seen.shows("status=3 least=")?;
                seen.says("less=125")
            },
        )
    }
}

/// Ctrl-C, typed at a terminal, is the command's, and nothing is left of it.
fn interrupted() -> GuestTest {
    row(
        "ctrl-c",
        KERNEL,
        "left >before; rm -f /tmp/typed; touch /tmp/typed; \
         (until grep -q -e began -e status= /tmp/typed; do sleep 0.2; done; sleep 1; printf '\\003'; \
          until grep -q status= /tmp/typed; do sleep 0.2; done) | \
         { as_user \"script -qefc 'perfvisor exec KERNEL SMALL -- sh -c \\\"echo began; sleep 1000\\\"' /dev/null\"; printf '\\nstatus=%s\\n' $?; } >/tmp/typed; \
         left >after; cmp before after && echo nothing-left; cat /tmp/typed",
        |seen, _| {
            seen.says("status=130")?;
            seen.says("nothing-left")
        },
    )
}

/// Folders that the guest sees besides, a variable, and another root file system: that of a
/// Debian 12.
fn flags() -> GuestTest {
    GuestTest {
        disks: true,
        ..row(
            "flags",
            KERNEL,
            "rm -rf /tmp/rw /tmp/ro; mkdir /tmp/rw /tmp/ro; echo read >/tmp/ro/file; chown -R user: /tmp/rw /tmp/ro; \
             as_user \"perfvisor exec KERNEL SMALL --rw /tmp/rw --ro /tmp/ro --env WORD='two words' -- \
               sh -c 'echo written >/tmp/rw/file; echo ro=\\$(cat /tmp/ro/file) word=\\$WORD; echo x >/tmp/ro/file || echo ro-refused'\" 2>/dev/null; \
             echo status=$? rw=$(cat /tmp/rw/file) ro=$(cat /tmp/ro/file); \
             mkdir -p /12; mount -o ro /dev/vdb /12; \
             perfvisor exec KERNEL SMALL --root /12 -- sh -c 'echo debian=$(cut -d. -f1 /etc/debian_version)'; echo root=$?; umount /12",
            |seen, _| {
                seen.says_each(&[
                    "ro=read word=two words",
                    "ro-refused",
                    "status=0 rw=written ro=read",
                    "debian=12",
                    "root=0",
                ])
            },
        )
    }
}

/// SIGTERM is the command's, which may take it. Ctrl-Z, typed at a terminal, stops the
/// command, and perfvisor with it, until that is told to go on.
fn signals() -> GuestTest {
    row(
        "signals",
        KERNEL,
        ": >/tmp/out; (until grep -q began /tmp/out; do sleep 0.2; done; pkill -TERM -u user -x perfvisor) & \
         as_user \"perfvisor exec KERNEL SMALL -- sh -c 'trap \\\"echo took-term; exit 9\\\" TERM; echo began; while :; do sleep 0.2; done'\" >/tmp/out; \
         echo term=$?; cat /tmp/out; \
         rm -f /tmp/typed; touch /tmp/typed; state() { ps -o stat= -p $(pgrep -u user -x perfvisor) | cut -c1; }; \
         (until grep -q -e began -e status= /tmp/typed; do sleep 0.2; done; sleep 1; printf '\\032'; \
          until [ $(state) = T ]; do sleep 0.2; done; echo stopped >/tmp/stopped; pkill -CONT -u user; \
          while [ $(state) = T ]; do sleep 0.2; done; sleep 1; printf '\\004'; \
          until grep -q status= /tmp/typed; do sleep 0.2; done) | \
         { as_user \"script -qefc 'perfvisor exec KERNEL SMALL -- sh -c \\\"echo began; cat; echo went-on\\\"' /dev/null\"; printf '\\nstatus=%s\\n' $?; } >/tmp/typed; \
         cat /tmp/stopped /tmp/typed",
        |seen, _| {
            seen.says_each(&["term=9", "took-term", "stopped", "status=0"])?;
            // Behind the `^Z` that the guest's terminal shows.
            seen.shows("went-on")
        },
    )
}

/// A flame graph names functions of the program and of the kernel, and leaves nothing but
/// its file.
fn flame_graph() -> GuestTest {
    row(
        "flamegraph",
        KERNEL,
        "left >before; as_user 'gcc -O1 -o loop loop.c; perfvisor exec KERNEL --cpus 1 --flamegraph out.svg -- ./loop'; echo status=$?; \
         left >after; cmp before after && echo nothing-left; \
         test -e /home/user/.debug || echo no-cache; \
         grep -o '<title>[^ <]*' /home/user/work/out.svg",
        |seen, _| {
            seen.says("status=0")?;
            seen.says("nothing-left")?;
            seen.says("no-cache")?;
            seen.shows("<title>hot_loop")?;
            // Where a program enters the kernel, in all three.
            seen.shows("<title>entry_SYSCALL_64")
        },
    )
}

/// A guest's way to the host's loopback device, by passt: the gateway is the host.
fn network() -> GuestTest {
    row(
        "net-user",
        KERNEL,
        "perl /images/serve.pl 8000 'served on the loopback' >/tmp/server & \
         until grep -q listening /tmp/server; do sleep 0.1; done; left >before; \
         as_user \"perfvisor exec KERNEL SMALL --net user -- sh -c 'ip -4 addr show scope global; ip route; \
           perl fetch.pl \\$(ip -4 route show default | cut -d\\\" \\\" -f3) 8000'\"; echo status=$?; \
         left >after; cmp before after && echo nothing-left",
        |seen, _| seen.says_each(&["served on the loopback", "status=0", "nothing-left"]),
    )
}

/// virtiofsd dies while the command runs: the guest ends with a reason.
fn backend_dies() -> GuestTest {
    row(
        "backend-dies",
        KERNEL,
        ": >/tmp/out; : >/tmp/errors; (until grep -q began /tmp/out || grep -q . /tmp/errors; do sleep 0.2; done; pkill -9 -u user virtiofsd) & \
         as_user \"perfvisor exec KERNEL SMALL -- sh -c 'echo began; while :; do ls -R /usr >/dev/null; done'\" \
           >/tmp/out 2>/tmp/errors; echo status=$? lines=$(wc -l </tmp/errors); cat /tmp/errors",
        |seen, _| {
            seen.says("status=125 lines=1")?;
            seen.shows("perfvisor: the host's /")?;
            seen.shows("virtiofsd (process ")?;
            seen.shows("was killed by signal 9")
        },
    )
}
