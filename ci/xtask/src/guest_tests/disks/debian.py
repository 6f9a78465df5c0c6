"""A Debian guest that boots from a disk: logs in at its serial port and types commands.

The guest's console is copied to /tmp/console. What is found out is printed as NAME=VALUE.
"""

import functools
import hashlib
import http.server
import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time

SERIAL, API, ERRORS = "/tmp/serial", "/tmp/api", "/tmp/errors"
MIB = 1 << 20


def say(name, value):
    print(f"{name}={value}", flush=True)


def md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def command(boot, append, *flags):
    """The words that start a guest from its disk."""
    kernel, initramfs = boot
    words = ["perfvisor", "run", "--kernel", kernel, "--initramfs", initramfs]
    words += ["--memory", "size=512M", "--api-socket", f"path={API}", *flags]
    return [*words, "--cmdline", f"{os.environ['KERNEL_WORDS']} root=/dev/vda {append}"]


class Guest:
    """A guest that runs, with whoever sits at its serial port."""

    def __init__(self, boot, append, *flags):
        words = command(boot, append, "--serial", f"socket={SERIAL}", *flags)
        self.errors = open(ERRORS, "ab")
        self.vmm = subprocess.Popen(words, stderr=self.errors)
        self.port = socket.socket(socket.AF_UNIX)
        while self.port.connect_ex(SERIAL):
            if self.vmm.poll() is not None:
                sys.exit("perfvisor has ended")
            time.sleep(0.1)
        self.sit_down()

    def sit_down(self):
        self.console, self.seen = open("/tmp/console", "ab", buffering=0), b""

    def read(self):
        data = self.port.recv(4096)
        self.console.write(data)
        self.seen += data
        return data

    def wait(self, pattern):
        """Reads on until the pattern has come; returns what it has found, and what was before."""
        while not (found := re.search(pattern, self.seen)):
            if not self.read():
                sys.exit(f"the guest ended before {pattern}")
        before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return found, before

    def type(self, line):
        self.port.sendall(line.encode() + b"\n")

    def log_in(self):
        self.wait(b"guest login: ")
        self.type("root")
        self.wait(b"Password: ")
        self.type("perfvisor")
        self.wait(b"root@guest:")
        # A shell that shows nothing of its own, and a terminal that does not either.
        self.type("exec sh")
        self.quiet()

    def quiet(self):
        self.type("stty -echo; PS1=; echo quiet=$((1 + 1))")
        self.wait(b"quiet=2\r?\n")

    def run(self, line):
        """The status of a line and what it prints."""
        self.type(f"{line}\necho ended=$?")
        found, before = self.wait(rb"ended=(\d+)\r?\n")
        return int(found[1]), before.decode(errors="replace").replace("\r", "").strip()

    def out(self, line):
        return self.run(line)[1]

    def end(self, line):
        """The status of perfvisor after a line that powers the guest off."""
        self.type(line)
        while self.read():
            pass
        return self.vmm.wait()


class Files(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, *_):
        pass


def serve(address, folder):
    handler = functools.partial(Files, directory=folder)
    server = http.server.ThreadingHTTPServer((address, 8000), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def fills_its_disk(guest, disk, filler):
    """Writes more than the host has room for. The VM waits until there is room."""
    guest.type(f"dd if=/srv/data of={disk} bs=1M count=20 conv=fsync 2>/dev/null; echo written=$?")
    state = ["perfvisor", "ctl", "--api-socket", API, "info", "--json"]
    while (info := json.loads(subprocess.check_output(state)))["state"] != "paused":
        if select.select([guest.port], [], [], 0.5)[0] and not guest.read():
            sys.exit("the guest has ended")
        if b"written=" in guest.seen:
            break
    say("full", info["state"])
    say("full-because", info.get("paused_because"))
    os.remove(filler)
    subprocess.run(["perfvisor", "ctl", "--api-socket", API, "resume"])
    say("full-written", guest.wait(rb"written=(\d+)\r?\n")[0][1].decode())
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    sums = {guest.out(f"head -c {20 * MIB} {file} | md5sum") for file in (disk, "/srv/data")}
    say("full-sums", "equal" if len(sums) == 1 else sums)


def main():
    boot, more = sys.argv[1:3], sys.argv[6:]
    disk, network, address = sys.argv[3:6]
    os.makedirs("/var/tmp/served", exist_ok=True)
    data = "/var/tmp/served/data"
    with open(data, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
    wanted = md5(data)
    serve("127.0.0.1" if network == "user" else address, "/var/tmp/served")

    flags = ["--disk", disk]
    for word in more:
        flags += ["--disk", word]
    guest = Guest(boot, "rw", *flags, "--net", f"{network},mac=52:54:00:09:08:0{1 if network == 'user' else 2}")
    guest.log_in()
    say("login", guest.out("id -un"))
    say("release", guest.out("cut -d. -f1 /etc/debian_version"))
    say("system", guest.out("systemctl is-active multi-user.target"))
    say("failed", guest.out("systemctl --failed --plain --no-legend | tr '\\n' ' '"))
    print("=== kernel\n" + guest.out("dmesg | grep -i -e pci -e ecam -e mcfg -e virtio"), flush=True)
    print("=== stat\n" + guest.out("perf stat -x, -e cycles -- ls -R /etc 2>&1 >/dev/null"), flush=True)
    print("=== end", flush=True)
    # 64 MiB by the network, and to the disk.
    prefix = address.rsplit(".", 1)[0]
    guest.run(f"until grep -q '{prefix}\\.' /proc/net/fib_trie; do sleep 1; done")
    get = (
        f"exec 3<>/dev/tcp/{address}/8000; printf \"GET /data HTTP/1.0\\r\\n\\r\\n\" >&3; "
        "while read -r line <&3 && [ ${#line} -gt 1 ]; do :; done; cat <&3 >/srv/data"
    )
    status = guest.run(f"bash -c '{get}'")[0]
    say("download", status)
    guest.run("sync; echo 3 >/proc/sys/vm/drop_caches")
    say("sum", "equal" if guest.out("md5sum </srv/data").split()[0] == wanted else "different")
    again = ["perfvisor", "run", "--kernel", boot[0], "--disk", disk]
    refused = subprocess.run(again, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    say("second-status", refused.returncode)
    say("second", refused.stderr.strip())
    for n, word in enumerate(more):
        extra(guest, f"/dev/vd{chr(ord('b') + n)}", word)
    say("power-off", guest.end("poweroff"))

    # Power is back: no service is needed for a look at the disk.
    guest = Guest(boot, "ro init=/bin/sh", "--disk", f"{disk},readonly=on")
    guest.wait(rb"# ")
    guest.quiet()
    say("sum-after-power-cycle", "equal" if guest.out("md5sum </srv/data").split()[0] == wanted else "different")
    say("second-power-off", guest.end("exec /sbin/poweroff -f"))


def extra(guest, disk, word):
    """What is asked of a further disk."""
    if "readonly=on" in word:
        say("ro", guest.out(f"cat /sys/block/{disk[5:]}/ro"))
        say("ro-write", guest.run(f"dd if=/dev/zero of={disk} count=1 conv=fsync 2>/dev/null")[0])
    elif "vhost-user=on" in word:
        say("vhost-user", guest.out(f"head -c {4 * MIB} /srv/data >{disk} && sync && echo written"))
    else:
        fills_its_disk(guest, disk, "/small/filler")


if __name__ == "__main__":
    main()
