//! The long help of flags about the pages that a guest has written.

/// `ctl snapshot --base`.
pub(super) const BASE: &str = "\
Save only the memory that was written since the snapshot in DIR.

DIR is the last snapshot of this VM that was taken with --track or --base, at the place where it
will be when the new one is restored: that needs both folders, unchanged. At most 64 snapshots
need each other so. The new one can be a base in turn.";

/// `ctl snapshot --track`.
pub(super) const TRACK: &str = "\
Let this snapshot be the base of the next one: from now on it is noted which pages are written,
which costs the guest one fault for each page after each snapshot. A snapshot without --track and
--base ends that.";

/// `--incoming`.
pub(super) const INCOMING: &str = "\
Go on with a VM that another process sends by `perfvisor ctl migrate --to socket=PATH`.

It waits at the socket PATH, which only its owner can use, for one VM. The guest's kernel, memory,
CPUs, PMU and devices are as there; --api-socket, --name and --kvm-device are this command's, and
--serial and --console may be others. Whoever sends decides what runs here: a VM, with the rights of
this user.";

/// `ctl migrate`.
pub(super) const MIGRATE: &str = "\
Move the VM to a perfvisor run --incoming, while its guest runs.

Its memory is copied, then what the guest has written meanwhile, again and again until the rest is
so little that the guest needs to stand for no longer than downtime= says. Then it goes on there,
and this VM ends, with exit status 8. Until the destination has said that it runs, any failure
leaves the guest running here, and the status of this command is 1. What can be moved is what can be
saved. A line is printed for each round. Ctrl-C ends the lines and not the migration: --cancel does.";

/// `ctl migrate --to`.
pub(super) const MIGRATE_TO: &str = "\
Where to: socket=PATH[,downtime=N].
  socket    the socket of perfvisor run --incoming socket=PATH
  downtime  how long the guest may stand, in ms [default: 300]. A guest that writes faster than the
            copy goes is not moved: allow more, or pause it";
