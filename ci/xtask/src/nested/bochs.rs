//! Bochs: its configuration, and what keeps it going. It emulates Intel's VMX, which QEMU
//! does not.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::machine::{Files, Launched};
use super::{Host, boot_disk};
use crate::cmd;

/// MiB. Debian's build has no more.
const MEMORY: u64 = 2048;
/// The newest model with which no kernel finds fault in the CPU's leaves of XSAVE.
const CPU: &str = "corei7_haswell_4770";
/// Instructions in a second of the machine's time. With less, timers take more of them.
const IPS: u64 = 100_000_000;
/// A reboot is a triple fault, which ends Bochs. The rest spares time.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=5 oops=panic panic=-1 reboot=t \
    tsc=nowatchdog random.trust_cpu=on mitigations=off cryptomgr.notests \
    initcall_blacklist=jent_mod_init,crypto_kdf108_init";
/// What the host's init is told of its ways out: control, output, errors.
pub(super) const PORTS: &[u8] = b"/dev/ttyS1 /dev/ttyS2 /dev/ttyS3\n";
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";
/// Devices that the machine does not have.
const ABSENT: &str = "sb16=0, es1370=0, e1000=0, ne2k=0, pcipnic=0, pcidev=0, voodoo=0, \
    speaker=0, parallel=0, gameport=0, usb_uhci=0, usb_ohci=0, usb_ehci=0, usb_xhci=0";
/// Looks for the screen's name, ten in a second.
const TRIES: u32 = 600;
/// How long Bochs may take until it has its serial lines.
const CONNECTED: Duration = Duration::from_secs(120);

/// Starts Bochs.
///
/// # Errors
/// If it does not start, or a file cannot be made.
pub(super) fn launch(host: &Host, files: &Files) -> Result<Launched> {
    let kernel = host.kernel.dir.join("vmlinux");
    let image = (kernel.as_path(), files.initrd.as_path(), CMDLINE);
    boot_disk::make(image, MEMORY << 20, &files.dir.join("disk"))?;
    let listen = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        io::Result::Ok(listener)
    };
    let ports = [listen()?, listen()?, listen()?, listen()?];
    let write = |name: &str, text: &str| {
        let path = files.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("bochsrc", &configuration(host.cpus, &ports)?)?;
    // Debian's Bochs has its debugger, and waits to be told: continue.
    write("debugger", "c\n")?;
    let messages = File::create(&files.messages)
        .with_context(|| format!("cannot write {}", files.messages.display()))?;
    // Its debugger says on standard output why it stopped.
    let said = messages.try_clone().context("no more files")?;
    // It dies with us, however we end.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["bochs-bin", "-q", "-f", "bochsrc", "-rc", "debugger"])
        .env("TERM", "vt100")
        .current_dir(&files.dir)
        .stdin(Stdio::null())
        .stdout(said)
        .stderr(messages)
        .spawn()
        .context("cannot start Bochs")?;
    let lines = match connect(&mut child, &ports) {
        Ok(lines) => lines,
        Err(error) => {
            let _ended = child.kill();
            let _reaped = child.wait();
            let said = fs::read(&files.messages).unwrap_or_default();
            let said = cmd::last_lines(&String::from_utf8_lossy(&said), 6);
            return Err(error.context(said));
        }
    };
    let [console, control, output, error] = lines;
    let mut log = File::create(&files.console)
        .with_context(|| format!("cannot write {}", files.console.display()))?;
    thread::spawn(move || io::copy(&mut &console, &mut log));
    let messages = files.messages.clone();
    thread::spawn(move || empty_screen(&messages));
    Ok(Launched {
        child,
        control: Box::new(control),
        output: Box::new(output),
        error: Box::new(error),
    })
}

/// `bochsrc`: a CPU with VMX, a disk, a screen of text, and serial lines that lead to
/// `ports`. Bochs's sound, which nobody hears, is off: its mixer ends Bochs now and then.
fn configuration(cpus: u32, ports: &[TcpListener]) -> Result<String> {
    let mut text = format!(
        "cpu: model={CPU}, count={cpus}, ips={IPS}, reset_on_triple_fault=0
memory: guest={MEMORY}, host={MEMORY}
romimage: file={BIOS}
vgaromimage: file={VGA_BIOS}
ata0-master: type=disk, path=disk, mode=flat, cylinders=0
boot: disk
display_library: term
clock: sync=none
log: -
panic: action=fatal
error: action=ignore
info: action=ignore
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
plugin_ctrl: {ABSENT}
"
    );
    for (n, port) in (1..).zip(ports) {
        let address = port.local_addr()?;
        text.push_str(&format!(
            "com{n}: enabled=1, mode=socket-client, dev={address}\n"
        ));
    }
    Ok(text)
}

/// The serial lines, which Bochs opens when it starts.
fn connect<const N: usize>(child: &mut Child, ports: &[TcpListener; N]) -> Result<[TcpStream; N]> {
    let began = Instant::now();
    let mut lines = Vec::new();
    for port in ports {
        lines.push(loop {
            match port.accept() {
                Ok((line, _)) => break line,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot take a serial line of Bochs"),
            }
            if let Some(status) = child.try_wait().context("cannot wait for Bochs")? {
                bail!("Bochs ended before the machine began ({status})");
            }
            if began.elapsed() > CONNECTED {
                bail!("Bochs has not opened its serial lines");
            }
            thread::sleep(Duration::from_millis(20));
        });
    }
    for line in &lines {
        // A line that was taken may be as its listener is.
        line.set_nonblocking(false)
            .context("cannot read a serial line of Bochs")?;
    }
    match lines.try_into() {
        Ok(lines) => Ok(lines),
        Err(_) => bail!("Bochs has too few serial lines"),
    }
}

/// Reads what Bochs paints on its screen, a pseudo-terminal that it makes and names: when
/// that is full, Bochs waits.
fn empty_screen(messages: &Path) {
    for _ in 0..TRIES {
        let said = fs::read(messages).unwrap_or_default();
        if let Some(name) = screen(&String::from_utf8_lossy(&said)) {
            let opened = File::options()
                .read(true)
                .custom_flags(libc::O_NOCTTY)
                .open(name);
            // It ends with Bochs.
            let _ended = opened.and_then(|mut screen| io::copy(&mut screen, &mut io::sink()));
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The name of the pseudo-terminal.
fn screen(said: &str) -> Option<&str> {
    let (_, after) = said.split_once("Bochs connected to screen \"")?;
    Some(after.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bochs_that_ends_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut child = Command::new("false").spawn().unwrap();
        let error = connect(&mut child, &[listener]).unwrap_err().to_string();
        assert!(error.contains("ended"), "{error}");
    }

    #[test]
    fn serial_lines_come_in_the_order_of_their_ports() {
        let listeners = [0; 2].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [first, second] = [&listeners[0], &listeners[1]].map(|l| l.local_addr().unwrap());
        // Bochs may open the second one first.
        let two = TcpStream::connect(second).unwrap();
        let one = TcpStream::connect(first).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let lines = connect(&mut child, &listeners).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            lines.map(|l| l.peer_addr().unwrap()),
            [one.local_addr().unwrap(), two.local_addr().unwrap()]
        );
    }

    #[test]
    fn the_screen_is_found_when_its_name_is_whole() {
        let said = "x\nBochs connected to screen \"/dev/pts/7\"\n";
        assert_eq!(screen(said), Some("/dev/pts/7"));
        assert_eq!(screen("Bochs connected to screen \"/dev/p"), None);
    }
}
