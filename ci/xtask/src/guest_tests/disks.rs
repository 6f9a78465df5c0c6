//! Guests that are a Debian 12 and a Debian 13, from disks: systemd, a login at the serial
//! port, disks of every kind, and networks, by one boot each; then the power goes and comes
//! back.

mod cost;

use anyhow::{Context, Result, ensure};

use super::{GuestTest, Runs, Seen};
use crate::guest::KERNEL_WORDS;
use crate::perf;

/// Files of the line, in /images.
const FILES: [(&str, &str); 2] = [
    ("debian.py", include_str!("disks/debian.py")),
    ("devices.py", include_str!("disks/devices.py")),
];

/// `small FORMAT` makes a host's disk of 24 MiB, half of which a filler takes, with an
/// image of a disk of 64 MiB.
const SMALL: &str = "\
    small() { mkdir /small; mount -t tmpfs -o size=24M tmpfs /small; \
      head -c 12582912 /dev/zero >/small/filler; qemu-img create -q -f $1 /small/disk 64M; }; ";

/// Every test of disks and networks.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = vec![debian_12(), debian_13(), tap_refused(), every_device()];
    all.extend(cost::all());
    all
}

fn row(name: &str, line: &str, check: super::Check) -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        debian: true,
        disks: true,
        files: &FILES,
        limit: 240,
        ..GuestTest::new(
            format!("disks/{name}"),
            format!("export KERNEL_WORDS='{KERNEL_WORDS}'; {SMALL}{line}"),
            check,
        )
    }
}

/// The disk is a qcow2 image, and so is one that the host has no room for. The network is a
/// tap device in a namespace of its own.
fn debian_12() -> GuestTest {
    row(
        "debian-12",
        "mkdir /12; mount -o ro /dev/vdb /12; cp /12/boot/vmlinux-guest /var/tmp/vmlinux; cp /12/boot/initrd.img-* /var/tmp/initrd; umount /12; \
         qemu-img convert -O qcow2 /dev/vdb /var/tmp/12.qcow2; small qcow2; modprobe -a tun vhost_net; \
         unshare -n sh -c 'ip tuntap add dev tap0 mode tap && ip addr add 10.9.8.1/24 dev tap0 && ip link set tap0 up && \
           python3 /images/debian.py /var/tmp/vmlinux /var/tmp/initrd path=/var/tmp/12.qcow2,format=qcow2 tap=tap0 10.9.8.1 \
             path=/small/disk,format=qcow2'; \
         echo script=$?; cat /tmp/errors; rm /var/tmp/12.qcow2",
        |seen, _| {
            seen.says("release=12")?;
            same_in_both(seen)
        },
    )
}

/// The disk is the host's block device. Further disks are read-only, in a file that the host
/// has no room for, and served by another process. The network is passt's.
fn debian_13() -> GuestTest {
    row(
        "debian-13",
        "small raw; head -c 1048576 /dev/urandom >/var/tmp/ro; md5sum /var/tmp/ro >/tmp/ro.md5; \
         truncate -s 64M /var/tmp/served.img; \
         qemu-storage-daemon --blockdev file,node-name=f,filename=/var/tmp/served.img \
           --export vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path=/tmp/disk.socket & hog=$!; \
         until [ -S /tmp/disk.socket ]; do sleep 0.2; done; \
         python3 /images/debian.py /boot/vmlinux-guest $(echo /boot/initrd.img-6.12*) path=/dev/vdc user 169.254.2.2 \
           path=/var/tmp/ro,readonly=on path=/small/disk vhost-user=on,socket=/tmp/disk.socket; \
         echo script=$?; md5sum --quiet -c /tmp/ro.md5 && echo ro-unchanged; \
         cmp -n 4194304 /var/tmp/served.img /var/tmp/served/data && echo served-as-written; \
         kill $hog; cat /tmp/errors",
        |seen, _| {
            seen.says_each(&[
                "release=13",
                "ro=1",
                "ro-write=1",
                "ro-unchanged",
                "vhost-user=written",
                "served-as-written",
            ])?;
            same_in_both(seen)
        },
    )
}

/// A tap device of another user, and one that another program has open. No guest boots here.
fn tap_refused() -> GuestTest {
    row(
        "tap-refused",
        "modprobe -a tun vhost_net; chmod 666 /dev/net/tun /dev/vhost-net; ip tuntap add dev tap9 mode tap; \
         try='perfvisor run --kernel /boot/vmlinuz-6.12.* --serial null --net tap=tap9'; \
         setpriv --reuid 1000 --regid 1000 --init-groups sh -c \"$try\" 2>&1; echo forbidden=$?; \
         python3 -c 'import fcntl, os, struct, time; \
           tun = os.open(\"/dev/net/tun\", os.O_RDWR); fcntl.ioctl(tun, 0x400454ca, struct.pack(\"16sH22x\", b\"tap9\", 0x5002)); \
           print(\"held\", flush=True); time.sleep(1000)' >/tmp/held & holder=$!; \
         until grep -q held /tmp/held; do sleep 0.1; done; \
         sh -c \"$try\" 2>&1; echo busy=$?; kill $holder; ip link del tap9",
        |seen, _| {
            seen.says("forbidden=1")?;
            seen.shows("--net tap=tap9: this tap device is another user's; use one that was")?;
            seen.says("busy=1")?;
            seen.shows("--net tap=tap9: another program uses this tap device; use another one")
        },
    )
}

/// A Debian 13 with one of every device, whose console is the user's terminal: login, the
/// terminal's size, ping and apt through passt, which reach the host and nothing else, a shared
/// folder, vsock, a vCPU that comes, a reset after which it boots again, and a panic. passt may
/// ping where groups may, as systemd has it on most hosts.
fn every_device() -> GuestTest {
    GuestTest {
        on_request: "every-device",
        ..row(
            "every-device",
            "modprobe vhost_vsock; echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range; \
             python3 /images/devices.py /boot/vmlinux-guest $(echo /boot/initrd.img-6.12*) path=/dev/vdc 169.254.2.2; \
             echo script=$?; cat /tmp/errors",
            |seen, _| {
                seen.says_each(&[
                    "login=root",
                    "terminal=/dev/hvc0",
                    "size=40 100",
                    "new-size=50 132",
                    "route=169.254.2.2",
                    "apt-update=0",
                    "apt-install=0",
                    "from-host=installed",
                    "mounted=0",
                    "shared=by the guest",
                    "rng=virtio_rng.0",
                    "vsock=hello from 7",
                    "cpus=2",
                    "after-reboot=['1', 'installed']",
                    "panic=6",
                    "script=0",
                ])?;
                let ping = perf::section(&seen.console, "ping")?;
                ensure!(ping.contains(" 3 received, 0% packet loss"), "{ping}");
                Ok(())
            },
        )
    }
}

fn same_in_both(seen: &Seen) -> Result<()> {
    seen.says_each(&[
        "login=root",
        "system=active",
        "failed=",
        "download=0",
        "sum=equal",
        "second-status=2",
        "full=paused",
        "full-written=0",
        "full-sums=equal",
        "power-off=0",
        "sum-after-power-cycle=equal",
        "second-power-off=0",
        "script=0",
    ])?;
    let kernel = perf::section(&seen.console, "kernel")?;
    ensure!(
        kernel.contains("ECAM") || kernel.contains("MMCONFIG"),
        "the bus: {kernel}"
    );
    for complaint in [
        "PCI: Fatal",
        "not reserved",
        "_OSC: platform",
        "_OSC failed",
        "AE_",
    ] {
        ensure!(!kernel.contains(complaint), "the bus: {kernel}");
    }
    let counted = perf::section(&seen.console, "stat")?;
    let count = perf::counts(counted, "cycles").first().copied();
    ensure!(count.context("no count")? > 0.0, "cycles: {counted}");
    let errors = &seen.console;
    ensure!(errors.contains("is in use"), "a second VM: {errors}");
    ensure!(
        errors.contains("perfvisor ctl resume"),
        "a full disk: {errors}"
    );
    Ok(())
}
