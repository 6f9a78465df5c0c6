"""A Debian guest with one of every device, whose console is a terminal of the host's: logs in
at /dev/hvc0 and uses each device. What is found out is printed as NAME=VALUE.
"""

import errno
import fcntl
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading

from debian import API, ERRORS, Guest, command, say, serve

FOLDER = "/var/tmp/served"
# A guest of this address finds the host at address 2.
VSOCK, PORT = 7, 4000


class Terminal:
    """The host's side of a terminal, read and written as a socket is."""

    def __init__(self):
        self.ours, self.theirs = os.openpty()
        self.resize(40, 100)

    def resize(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def sendall(self, data):
        while data:
            data = data[os.write(self.ours, data) :]

    def recv(self, most):
        try:
            return os.read(self.ours, most)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""  # Nobody has the other side any more.


class AtTerminal(Guest):
    """A guest with whoever sits at its virtio console."""

    def __init__(self, boot, append, *flags):
        words = command(boot, append, "--serial", "null", "--console", "tty", *flags)
        self.port, self.errors = Terminal(), open(ERRORS, "ab")
        theirs = self.port.theirs
        self.vmm = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=self.errors)
        os.close(theirs)
        self.sit_down()


def repository():
    """Makes a package, and the list in which apt looks for it."""
    tree, package = f"{FOLDER}/tree", "from-host_1_all.deb"
    fields = "Package: from-host\nVersion: 1\nArchitecture: all\nMaintainer: host\nDescription: one file\n"
    for name, text in {"DEBIAN/control": fields, "srv/from-host": "installed\n"}.items():
        os.makedirs(os.path.dirname(f"{tree}/{name}"), exist_ok=True)
        with open(f"{tree}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    subprocess.run(["dpkg-deb", "--build", tree, f"{FOLDER}/{package}"], check=True, stdout=subprocess.DEVNULL)
    with open(f"{FOLDER}/{package}", "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{FOLDER}/Packages", "w", encoding="ascii") as file:
        file.write(f"{fields}Filename: ./{package}\nSize: {len(data)}\nSHA256: {digest}\n")


def answer_by_vsock():
    """Sends back what the first guest to connect sends."""
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, PORT))
    listener.listen()

    def answer():
        guest, (cid, _) = listener.accept()
        guest.sendall(guest.recv(100) + b" from " + str(cid).encode())
        guest.close()

    threading.Thread(target=answer, daemon=True).start()


def network(guest, address):
    """Ping and apt, which reach the host and nothing else."""
    prefix = address.rsplit(".", 1)[0]
    guest.run(f"until grep -q '{prefix}\\.' /proc/net/fib_trie; do sleep 1; done")
    say("route", guest.out("ip -4 route show default | cut -d' ' -f3"))
    print("=== ping\n" + guest.out(f"ping -c 3 {address}"), flush=True)
    print("=== apt", flush=True)
    guest.run("rm -rf /etc/apt/sources.list.d /var/lib/apt/lists; export DEBIAN_FRONTEND=noninteractive")
    guest.run(f"echo 'deb [trusted=yes] http://{address}:8000 ./' >/etc/apt/sources.list")
    for name, words in {"update": "update", "install": "-y install from-host"}.items():
        # With a terminal it throws away what was typed ahead: the question for its status.
        status, text = guest.run(f"apt-get -q -o Dpkg::Use-Pty=0 {words} </dev/null 2>&1")
        print(text, flush=True)
        say(f"apt-{name}", status)
    say("from-host", guest.out("cat /srv/from-host"))


def main():
    disk, address = sys.argv[3:5]
    os.makedirs(FOLDER, exist_ok=True)
    repository()
    serve("127.0.0.1", FOLDER)
    answer_by_vsock()
    flags = ["--disk", disk, "--net", "user", "--fs", f"tag=host,path={FOLDER}", "--rng", "on"]
    flags += ["--vsock", f"cid={VSOCK}", "--cpus", "boot=1,max=2", "--on-reboot", "restart"]
    guest = AtTerminal(sys.argv[1:3], "rw console=hvc0", *flags)
    guest.log_in()
    say("login", guest.out("id -un"))
    say("terminal", guest.out("tty"))
    say("size", guest.out("stty size"))
    guest.port.resize(50, 132)
    guest.vmm.send_signal(signal.SIGWINCH)
    say("new-size", guest.out("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.2; done; stty size"))
    network(guest, address)
    say("mounted", guest.run("mount -t virtiofs host /mnt")[0])
    guest.run("echo by the guest >/mnt/by-guest")
    with open(f"{FOLDER}/by-guest", encoding="ascii") as file:
        say("shared", file.read().strip())
    say("rng", guest.out("cat /sys/class/misc/hw_random/rng_current"))
    talk = f"s = socket.socket(socket.AF_VSOCK); s.connect((2, {PORT})); s.sendall(b'hello'); print(s.recv(100).decode())"
    say("vsock", guest.out(f"python3 -c \"import socket; {talk}\" 2>&1"))
    subprocess.run(["perfvisor", "ctl", "--api-socket", API, "vcpu", "add", "1"], check=True)
    # Debian leaves it to its user to start a CPU that has come.
    online = "/sys/devices/system/cpu/cpu1/online"
    say("cpus", guest.out(f"until [ -e {online} ] && echo 1 >{online}; do sleep 0.2; done; nproc"))
    guest.type("systemctl reboot")
    guest.log_in()
    say("after-reboot", guest.out("nproc; cat /srv/from-host").split())
    guest.run("modprobe pvpanic-mmio")
    say("panic", guest.end("echo c >/proc/sysrq-trigger"))


if __name__ == "__main__":
    main()
