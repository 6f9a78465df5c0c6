//! The advice about a KVM device that does not open. For a device that is
//! closed to this process it names the real owner, group and mode.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The device of almost every host.
const DEVICE: &str = "/dev/kvm";

/// Errors of a device file without a driver behind it (`man 2 open`).
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;

/// The advice about a device that failed to open with `error`.
pub(super) fn advice(path: &Path, error: &io::Error) -> String {
    let missing = match error.kind() {
        io::ErrorKind::PermissionDenied => return closed(path),
        io::ErrorKind::NotFound => true,
        _ => matches!(error.raw_os_error(), Some(ENXIO | ENODEV)),
    };
    let text = if !missing {
        "use a KVM device that this process can read and write"
    } else if path != Path::new(DEVICE) && Path::new(DEVICE).exists() {
        "use --kvm-device /dev/kvm"
    } else {
        "there is no KVM on this host; use modprobe kvm_intel or kvm_amd, or enable virtualisation in the firmware, or nested virtualisation in the hypervisor that runs this host"
    };
    text.to_owned()
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    id: u32,
    /// None if it is not in the host's files.
    name: Option<String>,
}

impl Account {
    /// The account of this number in a file of the form of `/etc/passwd`.
    fn find(id: u32, file: &str) -> Self {
        let name = entry(id, file).and_then(|entry| entry.split(':').next());
        Self {
            id,
            name: name.map(str::to_owned),
        }
    }

    fn text(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }
}

/// The line of a number in `/etc/passwd` or `/etc/group`.
fn entry(id: u32, file: &str) -> Option<&str> {
    file.lines()
        .find(|line| line.split(':').nth(2).is_some_and(|n| n.parse() == Ok(id)))
}

/// The owner, the group and the mode of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permissions {
    owner: Account,
    group: Account,
    /// The lowest nine bits of the mode.
    mode: u32,
}

impl Permissions {
    /// Whether the class whose bits start at `shift` may read and write.
    const fn both(&self, shift: u32) -> bool {
        (self.mode >> shift) & 0o6 == 0o6
    }
}

/// The user and the groups of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    user: Account,
    groups: Vec<u32>,
    /// Whether `/etc/group` lists the user in the device's group.
    is_listed: bool,
}

/// The advice about a device that this process may not open.
fn closed(path: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
    let status = read("/proc/self/status");
    match fs::metadata(path) {
        Ok(file) => {
            let permissions = Permissions {
                owner: Account::find(file.uid(), &users),
                group: Account::find(file.gid(), &groups),
                mode: file.mode() & 0o777,
            };
            let group = entry(file.gid(), &groups).unwrap_or_default();
            what_to_do(path, &permissions, &process(&status, &users, group))
        }
        Err(error) => format!("run as root (its owner and mode cannot be read: {error})"),
    }
}

/// This process, from `/proc/self/status` and the entry of the device's group.
fn process(status: &str, users: &str, group: &str) -> Process {
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let numbers = line.unwrap_or_default().split_ascii_whitespace();
        numbers.filter_map(|n| n.parse().ok()).collect()
    };
    // Real, effective, saved, file system.
    let effective = |ids: Vec<u32>| ids.get(1).copied();
    let user = Account::find(effective(numbers("Uid:")).unwrap_or_default(), users);
    let mut groups = numbers("Groups:");
    groups.extend(effective(numbers("Gid:")));
    let members = group.split(':').nth(3).unwrap_or_default();
    let is_listed = members
        .split(',')
        .any(|name| user.name.as_deref() == Some(name));
    Process {
        user,
        groups,
        is_listed,
    }
}

fn what_to_do(path: &Path, file: &Permissions, process: &Process) -> String {
    let group = file.group.text();
    let user = process.user.text();
    let in_group = process.groups.contains(&file.group.id);
    let permitted = if process.user.id == file.owner.id {
        file.both(6)
    } else if in_group {
        file.both(3)
    } else {
        file.both(0)
    };
    let path = path.display();
    let step = if process.user.id == 0 || permitted {
        format!(
            "that permits user {user}, so a container or a security module forbids it; use a container with this device (docker run --device {path})"
        )
    } else if process.user.id == file.owner.id {
        format!("use chmod 660 {path}, or run as root")
    } else if in_group || file.group.id == 0 || !file.both(3) {
        format!(
            "run as root, or use sudo chgrp kvm {path} && sudo chmod 660 {path} and join the group kvm (sudo usermod -aG kvm {user}, then log in again)"
        )
    } else if process.is_listed {
        format!(
            "user {user} is in the group {group} since a later login: log in again, or run as root"
        )
    } else {
        format!(
            "run as root, or join the group {group} (sudo usermod -aG {group} {user}, then log in again)"
        )
    };
    format!(
        "it belongs to {}:{group} and has mode {:04o}; {step}",
        file.owner.text(),
        file.mode
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
    const STATUS: &str = "Uid:\t0\t1000\t0\t0\nGid:\t0\t1000\t0\t0\nGroups:\t4 27 \n";

    fn advised(owner: u32, group: &str, mode: u32, status: &str) -> String {
        let id = group.split(':').nth(2).unwrap().parse().unwrap();
        let file = Permissions {
            owner: Account::find(owner, USERS),
            group: Account::find(id, group),
            mode,
        };
        what_to_do(Path::new("/dev/kvm"), &file, &process(status, USERS, group))
    }

    #[test]
    fn a_user_outside_of_the_group_joins_it() {
        let text = advised(0, "virt:x:108:", 0o660, STATUS);
        assert_eq!(
            text,
            "it belongs to root:virt and has mode 0660; run as root, or join the group virt (sudo usermod -aG virt ann, then log in again)"
        );
    }

    #[test]
    fn a_new_member_logs_in_again() {
        let text = advised(0, "kvm:x:108:bob,ann", 0o660, STATUS);
        assert!(
            text.contains("log in again") && !text.contains("usermod"),
            "{text}"
        );
    }

    #[test]
    fn a_device_for_root_alone_gets_a_group() {
        for (group, mode) in [("root:x:0:", 0o660), ("kvm:x:108:", 0o600)] {
            let text = advised(0, group, mode, STATUS);
            assert!(text.contains("chgrp kvm /dev/kvm"), "{text}");
        }
        // A member of a group that may only read.
        let text = advised(0, "adm:x:4:ann", 0o640, STATUS);
        assert!(
            text.contains("mode 0640; run as root, or use sudo chgrp"),
            "{text}"
        );
    }

    #[test]
    fn an_owner_changes_the_mode() {
        let text = advised(1000, "root:x:0:", 0o400, STATUS);
        assert!(
            text.contains("ann:root and has mode 0400; use chmod 660"),
            "{text}"
        );
    }

    #[test]
    fn a_mode_that_permits_points_to_the_container() {
        let root = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0\n";
        for (group, mode, status) in [
            ("kvm:x:108:", 0o660, root),
            ("kvm:x:108:", 0o666, STATUS),
            ("sudo:x:27:", 0o660, STATUS),
        ] {
            let text = advised(0, group, mode, status);
            assert!(text.contains("--device /dev/kvm"), "{text}");
        }
    }

    #[test]
    fn an_unknown_account_is_its_number() {
        assert_eq!(Account::find(77, USERS).text(), "77");
        assert_eq!(process("", USERS, "").user.id, 0);
    }

    #[test]
    fn a_device_without_a_driver_needs_a_module() {
        for errno in [ENXIO, ENODEV] {
            let error = io::Error::from_raw_os_error(errno);
            let text = advice(Path::new(DEVICE), &error);
            assert!(text.contains("modprobe kvm_intel"), "{text}");
        }
    }
}
