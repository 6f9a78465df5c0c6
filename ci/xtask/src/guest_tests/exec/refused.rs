//! What `perfvisor exec` refuses, on a host as a user has it: one line, a status, and
//! nothing has started. No guest boots here.

use anyhow::{Context, Result, ensure};

use super::super::{GuestTest, Seen};
use super::row;

/// A bad input.
struct Case {
    /// What it is about.
    name: &'static str,
    /// A line of root's before it, and one after it.
    host: (&'static str, &'static str),
    /// The flags.
    flags: &'static str,
    /// The status that is due.
    status: u8,
    /// A part of the line that is due.
    says: &'static str,
}

/// Cases that need nothing of the host: name, flags, status, and what is said. Many more are
/// in vmm/tests/bad_input.
const FLAGS: [(&str, &str, u8, &str); 4] = [
    ("flag", "--bogus", 2, "--bogus"),
    ("net", "--net tap=x", 2, "--net"),
    ("little-memory", "--memory 32M", 125, "expected: at least"),
    (
        "picture",
        "--flamegraph /etc/out.svg",
        125,
        "cannot write /etc/out.svg",
    ),
];

/// Cases of the host.
const HOSTS: [Case; 10] = [
    Case {
        name: "forbidden-kernel",
        host: (
            "cp /boot/vmlinuz-6.12.* /home/user/mine; chmod 600 /home/user/mine",
            "rm /home/user/mine",
        ),
        flags: "--kernel /home/user/mine",
        status: 125,
        says: "use sudo chmod a+r /home/user/mine",
    },
    Case {
        name: "empty-boot",
        host: ("mv /boot /kept; mkdir /boot", "rmdir /boot; mv /kept /boot"),
        flags: "",
        status: 125,
        says: "no kernel of the host is in /boot or /lib/modules; install",
    },
    Case {
        name: "no-modules",
        host: ("mv /usr/lib/modules /kept", "mv /kept /usr/lib/modules"),
        flags: "",
        status: 125,
        says: "has no modules.builtin; install them",
    },
    Case {
        name: "no-drivers",
        host: (
            "cd /usr/lib; mv modules /kept; mkdir -p modules/$(uname -r); cd modules/*; touch modules.builtin modules.dep; cd /tmp",
            "rm -r /usr/lib/modules; mv /kept /usr/lib/modules",
        ),
        flags: "",
        status: 125,
        says: "has no virtio_pci, virtio_console, virtiofs, overlay, which exec needs",
    },
    Case {
        name: "no-virtiofsd",
        host: (
            "chmod a-x /usr/libexec/virtiofsd",
            "chmod a+x /usr/libexec/virtiofsd",
        ),
        flags: "",
        status: 125,
        says: "use the package virtiofsd",
    },
    Case {
        name: "old-virtiofsd",
        host: (
            "mv /usr/libexec/virtiofsd /kept; cp /bin/true /usr/libexec/virtiofsd",
            "mv /kept /usr/libexec/virtiofsd",
        ),
        flags: "",
        status: 125,
        says: "virtiofsd is too old: it has no option --fd; use the package",
    },
    Case {
        name: "no-passt",
        host: ("chmod a-x /usr/bin/passt", "chmod a+x /usr/bin/passt"),
        flags: "--net user",
        status: 125,
        says: "passt is neither in PATH",
    },
    Case {
        name: "old-passt",
        host: (
            "mv /usr/bin/passt /kept; cp /bin/true /usr/bin/passt",
            "mv /kept /usr/bin/passt",
        ),
        flags: "--net user",
        status: 125,
        says: "passt is too old: it has no option",
    },
    Case {
        name: "no-kvm",
        host: ("chmod 600 /dev/kvm", "chmod 660 /dev/kvm"),
        flags: "",
        status: 125,
        says: "/dev/kvm",
    },
    Case {
        name: "proc",
        host: (
            "cd /home/user; mv work kept; ln -s /proc work",
            "rm work; mv kept work; cd /tmp",
        ),
        flags: "",
        status: 125,
        says: "the working directory /proc cannot be shared",
    },
];

/// All of them, in one row.
pub(super) fn all() -> GuestTest {
    let flags = FLAGS.map(|(name, flags, status, says)| Case {
        name,
        host: ("true", "true"),
        flags,
        status,
        says,
    });
    let line: String = flags
        .iter()
        .chain(&HOSTS)
        .map(|case| {
            let (before, after) = case.host;
            let Case { name, flags, .. } = case;
            format!(
                "{before}; as_user 'perfvisor exec {flags} -- touch started' </dev/null >/tmp/out 2>/tmp/errors; \
                 echo {name}: status=$? lines=$(wc -l </tmp/errors) output=$(wc -c </tmp/out) $(cat /tmp/errors); {after}; "
            )
        })
        .collect();
    row(
        "refused",
        "6.12",
        &format!("{line} ls /home/user/work; left"),
        |seen, _| {
            let flags = FLAGS
                .iter()
                .map(|(name, _, status, says)| (*name, *status, *says));
            let hosts = HOSTS.iter().map(|case| (case.name, case.status, case.says));
            flags
                .chain(hosts)
                .try_for_each(|case| refused(seen, case))?;
            ensure!(!seen.console.contains("started"), "a command has run");
            ensure!(!seen.console.contains("virtiofsd --"), "a process is left");
            Ok(())
        },
    )
}

fn refused(seen: &Seen, (name, status, says): (&str, u8, &str)) -> Result<()> {
    let prefix = format!("{name}: ");
    let mut lines = seen.console.lines();
    let found = lines.find_map(|line| line.strip_prefix(&prefix));
    let found = found.with_context(|| format!("{name} did not run"))?;
    let due = format!("status={status} lines=1 output=0 perfvisor: ");
    ensure!(
        found.starts_with(&due) && found.contains(says),
        "{name}: due are `{due}` and `{says}`, not: {found}"
    );
    Ok(())
}
