//! The long texts of `--help`, which replace a manual.

pub(super) const RUN_ABOUT: &str = "\
Start a virtual machine and stay until it ends.

Only --kernel is required. The value of most flags is a list of KEY=VALUE pairs with
commas between them. In the descriptions, [ ] encloses a pair that may be left out, and
| stands between the possible values of a key.";

pub(super) const RUN: &str = "\
Examples:
  perfvisor run --kernel /boot/vmlinuz --initramfs guest.cpio
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --cmdline 'console=ttyS0 quiet' \\
      --cpus boot=4,topology=2:2:1:1 --memory size=2G
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --serial file=console.log
  perfvisor run --kernel vmlinuz --initramfs guest.cpio \\
      --cpus boot=2,affinity=[0@[2],1@[3]] --pmu type=auto,gp=4,policy=pinned

Console:
  With --serial tty the terminal belongs to the guest, Ctrl-C included.
  Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A ? shows these keys.
  A serial line does not know the terminal's size: in the guest, use
  stty rows LINES cols COLUMNS.
  The guest waits for whoever reads its output. If nobody has read for 5 s, bytes
  are lost; perfvisor ctl info and a line at the end say how many.

Exit status:
  0     the guest powered off or reset itself, or the user ended the VM (Ctrl-A x,
        perfvisor ctl shutdown --force)
  1     the host cannot run the VM, or the guest failed (by a triple fault, for example)
  2     a flag, or a file that a flag names, is not usable; nothing was started
  6     the guest's kernel panicked, and has the driver pvpanic; without it, a panic
        resets the guest (by panic=-1 in --cmdline)
  8     the VM has moved (perfvisor ctl migrate) and runs at its destination
  4     the VM did not end within 5 s of its reason to end; the end was cut short
  128+n signal n ended the VM (130 for SIGINT, 143 for SIGTERM)
  odd   with --debug-exit: twice the value that the guest wrote, plus 1

Environment:
  PERFVISOR_LOG  the log on standard error: off, error, warn [default], info, debug or
                 trace";

pub(super) const ON_REBOOT: &str = "\
What happens when the guest resets itself:
  exit     the VM ends with status 0, as at a power-off (default)
  restart  the guest boots again, with the files that the flags name as they are then; the
           file of its console goes on. A process that serves a device at a socket must take
           a second connection";

pub(super) const CONFIG: &str = "\
A TOML file with flags of this command. Its keys are the names of the flags. The value of
a key is the text of the flag, or a table of its KEY=VALUE pairs, where true is on and
false is off; a flag that may be repeated takes an array.

A flag of the command line replaces the file's. Of a flag that may be repeated, the
file's values come first. Paths are relative to the current folder. --print-config writes
such a file.

Example:
  kernel = \"vmlinuz\"
  initramfs = [\"guest.cpio\"]
  memory = { size = \"2G\" }
  [cpus]
  boot = 2
  max = 4
";

pub(super) const KERNEL: &str = "\
The kernel, in one of these formats:
  bzImage      a Linux kernel, 5.x or later, as distributions ship it
  ELF, x86-64  a Linux vmlinux, or a bare-metal program, which starts in 64-bit mode
  multiboot-1  an ELF32 file, or an image whose multiboot header has its addresses";

pub(super) const INITRAMFS: &str = "\
An initial RAM file system: a cpio archive (newc), plain or compressed. Repeat the
flag for several archives; they are concatenated in order. For a multiboot image, each
file is a module and may have any content.";

pub(super) const CPUS: &str = "\
Virtual CPUs: boot=N[,max=N][,topology=T][,affinity=A][,core-types=C][,nested=N]

  boot=N        vCPUs at the start, 1 to 254
  max=N         the most vCPUs that the guest can have, boot to 254 [default: boot];
                perfvisor ctl vcpu adds and removes vCPUs while the guest runs
  topology=T    threads:cores:dies:packages, or threads:cores:clusters:dies:packages
                with clusters of cores that share an L2 cache (Intel models only).
                The product of the numbers must be max [default: 1:max:1:1]
  affinity=A    [VCPU@[HOST CPUS],...]: binds vCPU threads to host CPUs
  core-types=C  [core=[VCPUS],atom=[VCPUS]]: the kind of each vCPU; name each vCPU once.
                Needed with --pmu type=hybrid, and not possible with other types
  nested=N      on or off [default: off]: whether the guest sees VMX or SVM, so that
                it can run guests of its own, where the host's KVM nests. 'on' needs
                --pmu off: what a guest of the guest does to the counters would be
                counted as the guest's

Examples: boot=2   boot=2,max=8,topology=2:2:1:2   boot=2,affinity=[0@[2,3],1@[4-7]]
          boot=4,core-types=[core=[0,1],atom=[2-3]]
";

pub(super) const MEMORY: &str = "\
Memory: size=N[,hugepages=on][,prefault=on]

  size=N        in bytes or with the suffix K, M or G; 8M to 1023G, a multiple of 4K. More
                than the host's memory and swap is warned of: the host provides a page
                when the guest first uses it
  hugepages=on  take it from the host's pool of 2 MiB pages (/proc/sys/vm/nr_hugepages)
                [default: off]
  prefault=on   provide all of it before the guest starts; refuses more than the host has
                [default: off]

Examples: size=512M   size=2G,hugepages=on   size=536870912
";

pub(super) const PMU: &str = "\
The guest's PMU: off, or
[type=T][,model=M][,gp=N][,fixed=N][,width=N][,policy=P][,filter=F][,rdpmc=R]

  type=T    the host PMU that counts for the guest [default: auto]:
              auto         the host's PMU; on a hybrid host both PMUs, and their counts
                           are added; on a host without a PMU the same as software
              core, atom   the PMU of one kind of CPU of a hybrid host. The vCPU threads
                           are bound to these CPUs; if one is moved away, the VM ends
              hybrid       the guest sees both kinds of CPU; needs --cpus core-types=
              software     a clock: only cycles and ref-cycles count
              NAME, NUMBER a PMU in /sys/bus/event_source/devices, or its type number
  model=M   the PMU that the guest sees: intel-v1 to intel-v5, amd-k7, amd-core or
            amd-v2 [default: amd-v2 on an AMD host that counts all events of perf stat,
            -d and -d -d of an AMD guest, otherwise intel-v2]
  gp=N      number of general-purpose counters, 2 to 8 [default: the model's number, or
            the host's number of free counters if that is smaller]
  fixed=N   number of fixed counters, 1 to 3, or 1 to 4 with intel-v5; intel-v1 and the
            AMD models have none [default: the model's number, or the host's number of
            free fixed counters if that is smaller]
  width=N   width of the counters in bits, 32 to 48 [default: the model's]
  policy=P  what happens if the host has too few counters:
              flexible  counters take turns; the guest reads scaled counts [default]
              pinned    a counter has a host counter all the time, or it stops in the
                        error state
  filter=F  the events that the guest may count:
              architectural  events with the same meaning on every CPU
              standard       also the other events that perf has a name for in the
                             guest, such as L1-dcache-loads [default]
              all            also raw codes of the host's CPU, such as r1d1
              @FILE          JSON, such as {\"allow\": [\"cycles\", \"r1d1\"], \"deny\": []}
            Raw codes count only if the host's CPU and the guest's are of one vendor
  rdpmc=R   rewrite: replace the RDPMC instructions of the guest's kernel by RDMSR, which
            can be served [default]
            off: replace nothing; the guest then has no PMU, as with --pmu off

Examples: off   type=auto   type=software,model=intel-v5   type=core,policy=pinned,gp=4
          type=auto,filter=all
";

pub(super) const UNCORE: &str = "\
Uncore PMUs, whose counters serve a die or a package:
[power=on|off][,amd_l3=on|off][,amd_df=on|off][,amd_umc=on|off][,share=cputime|raw]

  power     energy (RAPL); any model
  amd_l3    L3 caches; needs --pmu model=amd-core or amd-v2
  amd_df    data fabric; needs --pmu model=amd-core or amd-v2
  amd_umc   memory controllers; needs --pmu model=amd-v2
  share     the energy that the guest reads:
              cputime  its part of the host's energy, in proportion to its CPU time
                       [default]
              raw      all of the host's energy

Each PMU is off by default. With =on the host must have a PMU of that name; without it
the VM does not start. A guest with uncore PMUs can observe the activity of others on
its host, also with share=cputime, and attackers have read keys from energy counts: use
--uncore for trusted guests only.

Examples: power=on   power=on,share=raw   amd_l3=on,amd_df=on
";

pub(super) const FS: &str = "\
A folder of the host for the guest, which mounts it with: mount -t virtiofs T /mnt
tag=T,path=DIR[,readonly=R], or tag=T,socket=S; repeat the flag for several folders

  tag=T       the name by which the guest mounts it, up to 36 bytes
  path=DIR    the folder. virtiofsd is started for it and ends with the VM. It acts with
              the rights of whoever starts perfvisor, so their user id in the guest is
              their user id on the host; root in the guest acts as they do, too
  readonly=R  on or off [default: off]: whether the guest may only read
  socket=S    in place of path: a virtiofsd that listens at this Unix socket

Examples: tag=src,path=/home/me/src   tag=usr,path=/usr,readonly=on   tag=x,socket=/run/fs
";

pub(super) const NET: &str = "\
A network card: user[,mac=M], tap=T[,mac=M], or vhost-user=on,socket=S[,mac=M]; repeat
the flag for several cards

  user      the host's network without root: passt is started for the card and ends with
            the VM. The guest gets its address by DHCP; its gateway's address reaches
            what listens on the host's loopback device
  tap=T     a tap device of the host, served by the host's kernel (vhost-net)
  socket=S  with vhost-user=on: a process that listens at this Unix socket
  mac=M     the card's address, such as 52:54:00:12:34:56 [default: a random one]

Examples: user   tap=tap0   vhost-user=on,socket=/run/net.sock,mac=52:54:00:12:34:56
";

pub(super) const VSOCK: &str = "\
Sockets between guest and host (AF_VSOCK), by the host's kernel (vhost-vsock): cid=N

  cid=N  the guest's address, 3 to 4294967294; no other guest of the host may have it

Example: cid=3
";

pub(super) const SERIAL: &str = "\
The serial console, ttyS0 in the guest:
  tty        this terminal
  file=PATH  output to a file, which is created, or emptied when the VM starts, up to
             1 GiB; no input. With file=PATH,append=on the output is added at its end.
             PATH must not be a link, a FIFO, a file of another flag or of another VM
  socket=PATH
             a Unix socket, which is created for this user alone and goes with the VM: one
             client at a time reads the output, and what it sends is typed. Without a
             client the output is lost (socat -,raw,echo=0 UNIX:PATH connects a terminal)
  null       no output and no input
";

pub(super) const DISK: &str = "\
A disk (/dev/vda and on, in the order of the flags):
  path=P        a regular file or a block device
  readonly=on   the guest cannot write it; several VMs may read it then. off: this VM is
                its only user, which a lock on the file makes sure
  format=raw    the bytes of P are the disk
  format=qcow2  P is a qcow2 image that needs no other file
                Without format=, the bytes of P are the disk, and a P that starts as an
                image does is refused: its content may be the guest's
  direct=on     past the host's page cache
  id=NAME       /dev/disk/by-id/virtio-NAME in the guest, up to 20 characters
  vhost-user=on,socket=PATH
                the disk that another process, such as qemu-storage-daemon, serves at
                this Unix socket by vhost-user; no other key with it

When the host has no room for what the guest writes, the VM is paused: make room, then
perfvisor ctl resume. Nothing is lost.

Example: path=debian.qcow2,format=qcow2,id=root";

pub(super) const CONSOLE: &str = "\
The virtio console, hvc0 in the guest (console=hvc0 in --cmdline); it is faster than the
serial console and knows the size of the terminal:
  tty        this terminal; needs --serial null or --serial file=PATH
  file=PATH  output to a file, which is created, or emptied when the VM starts, up to
             1 GiB; no input
  null       no output and no input
";

pub(super) const API_SOCKET: &str = "\
The control API: path=PATH, or PATH alone, of a Unix socket for perfvisor ctl. The socket
is created at the start, with mode 0600, and removed at the end.

Example: path=/run/vm1.sock";

pub(super) const DOCTOR_ABOUT: &str = "\
Report in three lines what works on this host, what does not work, and what to change.

Starts a few short-lived guests of a few instructions each; changes nothing on the host.
--verbose prints all findings before the three lines.";

pub(super) const DOCTOR: &str = "\
Exit status:
  0  a Linux guest with a PMU can run here with the default flags of perfvisor run
  1  it cannot; the second line gives the reason, the third line says what to change
  2  a flag is not usable";

pub(super) const CTL: &str = "\
Examples:
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --api-socket path=/run/vm1.sock
  perfvisor ctl --api-socket /run/vm1.sock pmu
  perfvisor ctl --api-socket /run/vm1.sock info --json
  perfvisor ctl --api-socket /run/vm1.sock vcpu add 3
  perfvisor ctl --api-socket /run/vm1.sock monitor add instructions:u,policy=pinned

The socket speaks HTTP/1.1 with JSON bodies; openapi.json in the source describes it.

Exit status:
  0  done
  1  the VM refused, or cannot be reached
  2  a flag is not usable";

pub(super) const MONITOR_ADD: &str = "\
Attach a monitor; at most 8 exist at a time.

A monitor counts the guest's execution, whatever the guest does with its own PMU. If
the host has too few counters, they are given in this order: pinned monitors, the guest's
counters under policy=pinned, flexible monitors, the guest's under policy=flexible.";

pub(super) const MONITOR_EVENT: &str = "\
EVENT[,policy=flexible|pinned][,vcpu=N]

  EVENT     cycles, instructions, ref-cycles and other architectural events, or r and a
            code of the host's CPU, such as r1d1; then optionally :u or :k
  policy    flexible: takes turns with other events; the count is scaled [default]
            pinned: has a host counter all the time, or stops in the error state
  vcpu=N    one vCPU [default: all vCPUs, also those plugged in later]

Examples: cycles   instructions:u,policy=pinned   r1d1:k,vcpu=0
";

pub(super) const VCPU_ADD: &str = "\
Plug a vCPU in; done when the guest has accepted it.

Linux does not start the vCPU by itself: a udev rule of the distribution does, or
echo 1 > /sys/devices/system/cpu/cpuN/online in the guest.";

pub(super) const VCPU_REMOVE: &str = "\
Take a vCPU out; done when the guest has released it and its thread has ended.

If the guest refuses, its reason is shown. If the guest does not answer, the request
times out after 30 s. vCPU 0 is the boot CPU and cannot be removed.";

pub(super) const EXEC_ABOUT: &str = "\
Run a command of this host in a virtual machine of its own.

The guest has the host's kernel and the host's files: / read-only, with what is written
to it thrown away at the end, and the working directory read-write at the same path.
Standard input, output and error, the terminal, Ctrl-C, Ctrl-Z and signals are the
command's, and its exit status is perfvisor's. In the guest everybody may use perf and
see the kernel's symbols. Needed: access to /dev/kvm, and virtiofsd. No root.";

pub(super) const EXEC: &str = "\
Examples:
  perfvisor exec -- perf stat ./my-program
  perfvisor exec --cpus 4 --pmu type=core -- perf record -g make test
  perfvisor exec --rw ~/.cache --env CC=clang -- make -j4
  perfvisor exec --user root --timeout 10m -- ./install-and-test.sh
  perfvisor exec --flamegraph out.svg -- ./my-program
  perfvisor exec --net user -- curl https://example.org
  tar c src | perfvisor exec -- sh -c 'tar x -C /tmp && ./build' > log

perf record:
  perf.data lies in the working directory. perf report on the host finds the symbols of
  programs, which have the same paths, and those of the guest's kernel: they are kept where
  perf keeps the host's, in ~/.debug, once for each kernel (some 10 MB).

Exit status:
  the command's own, and
  2     a flag is not usable
  124   --timeout ended the command
  125   the guest could not be set up, or died; the last line says why
  126   the command cannot be executed
  127   the command is not there
  128+n signal n ended the command (130: Ctrl-C)

Three signals of INT, TERM, HUP and QUIT within 2 s end the machine of a command that
takes none. What the command leaves running is killed at its end.

Environment:
  PERFVISOR_LOG  the log on standard error: off, error [default], warn, info, debug or
                 trace
The command gets PATH, HOME, USER, LOGNAME, SHELL, TERM, COLORTERM, LANG, LC_* and TZ of
the caller, and the variables of --env.";

pub(super) const EXEC_KERNEL: &str = "\
The guest's kernel: a Linux bzImage.
  host  /boot/vmlinuz-VERSION of the running kernel, else the newest in /boot
  PATH  another one
Its modules are taken from /lib/modules/VERSION. It needs virtio_pci, virtio_console,
virtiofs and overlay, built in or as modules; the kernels of Debian 12 and 13, Ubuntu
and Fedora have them.";

/// `--restore`.
pub(super) const RESTORE: &str = "\
Go on from a snapshot: DIR[,paused=on].

The guest goes on where it was when `perfvisor ctl snapshot DIR` saved it. Its kernel, memory,
CPUs, PMU and devices are the snapshot's; --api-socket, --name, --kvm-device and --on-reboot are
this command's, and --serial, --console and --disk may be others than before. The bytes of a disk
are no part of the snapshot: its file must be as the guest left it, or be a copy from then. The
folder is not changed: several VMs may start from it. paused=on waits for `perfvisor ctl resume`.";

/// `ctl snapshot`.
pub(super) const SNAPSHOT: &str = "\
Save the VM into a new folder, for perfvisor run --restore.

The guest stands while it is saved, and goes on; with --stop the VM ends instead. The folder has
the guest's memory, with all that is secret in it: only its owner can read it. The bytes of disks
are not in it: with --stop the files stay as the guest left them; else copy them while the VM is
paused. --fs, --net, --vsock, --uncore and nested=on cannot be saved yet. Monitors are not saved.";
