"""The server under test: an external program behind ZEO's own `start_zeo_server`.

Owns how that program is found, started, found listening and stopped. Must never run a storage
server inside the test process: a test that only works with one is excluded. Linux only: whether and
where the server listens is read from /proc.
"""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIMS = Path(__file__).resolve().parent / "shims"

IS_PYTHON = os.environ.get("SUBJECT") == "runzeo"

STOP_TIMEOUT_S = 30
RESEND_S = 3
POLL_S = 0.01
TCP_LISTEN = "0A"
UNIX_ACCEPTS = 0x10000
OUTPUT_TAIL_CHARS = 4000

# What FileStorage.cleanup() removes; ZEO's own helper calls it unless told to keep the data.
FILESTORAGE_SUFFIXES = ("", ".old", ".tmp", ".lock", ".index", ".pack")


class NotExternal(Exception):
    """The test asks for something only a server inside the test process can give."""


class ServerFailed(AssertionError):
    """The server did not start, did not stop, or ended by itself."""


def binary(subject=None):
    """The program to test: SUBJECT=runzeo is Python's own, anything else is ours."""
    subject = subject or os.environ.get("SUBJECT", "zeolite")
    if subject == "runzeo":
        return Path(sys.executable).parent / "runzeo"
    if subject != "zeolite":
        raise SystemExit(f"SUBJECT={subject}: expected zeolite or runzeo")
    chosen = os.environ.get("ZEOLITE_BIN")
    return Path(chosen).absolute() if chosen else ROOT / "target/release/runzeo"


def install():
    """Make every helper of ZEO's tests start the external server.

    Has to run before ZEO.tests is imported: its modules bind the function by name.
    """
    if any(name.startswith("ZEO.tests") for name in sys.modules):
        raise RuntimeError("ZEO.tests is already imported with its own server helper")
    import ZEO._forker

    ZEO._forker.start_zeo_server = start_zeo_server
    os.environ["UPSTREAM_SERVER"] = str(binary())
    # Two tests write a script that imports ZEO.runzeo from the sys.path of this process.
    sys.path.insert(0, str(SHIMS))


def start_zeo_server(
    storage_conf=None,
    zeo_conf=None,
    port=None,
    keep=False,
    path="Data.fs",
    protocol=None,
    blob_dir=None,
    suicide=True,
    debug=False,
    threaded=False,
    start_timeout=33,
    name=None,
    log=None,
    show_config=False,
):
    """Start the external server; same arguments and result as ZEO's helper.

    `suicide`, `debug`, `threaded` and `name` shape the server's life inside a Python process and
    have no meaning here: the runner ends what a test leaves behind.
    """
    if protocol not in (None, b"5"):
        raise NotExternal("protocol= patches the Python server in its process")
    conf = _zeo_section(zeo_conf, port, log) + "\n" + _storage_section(storage_conf, path, blob_dir)
    if show_config:
        print(conf)
    directory = Path.cwd()
    server = ExternalServer(conf)
    address = server.wait_until_listening(start_timeout)

    def stop(stop_timeout=STOP_TIMEOUT_S):
        server.stop(stop_timeout)
        if not keep:
            _remove_filestorages(conf, directory)

    return address, stop


class ExternalServer:
    """One running server process."""

    _count = 0

    def __init__(self, conf):
        ExternalServer._count += 1
        # Outside of the test's directory: some tests look at what lies there.
        place = Path(os.environ.get("UPSTREAM_TEST_DIR", "."))
        self._output = place / f"server-{ExternalServer._count}.out"
        self._stopped = False
        conf_file = place / f"server-{ExternalServer._count}.conf"
        conf_file.write_text(conf)
        self._wanted = re.search(r"^\s*address\s+(\S.*?)\s*$", conf, re.M).group(1)
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                [os.environ["UPSTREAM_SERVER"], "-C", str(conf_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_until_listening(self, timeout_s):
        """The address clients connect to, once the server accepts there."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self._process.poll()
            if status is not None:
                raise ServerFailed(f"server ended with {status} at start\n{self._tail()}")
            address = self._listening_address()
            if address is not None:
                return address
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                raise ServerFailed(f"not listening after {timeout_s} s\n{self._tail()}")
            time.sleep(POLL_S)

    def stop(self, timeout_s):
        """End the server the way an administrator does; anything but a clean exit is a failure."""
        if self._stopped:
            return
        self._stopped = True
        status = self._process.poll()
        if status is not None:
            raise ServerFailed(f"server ended by itself with {status}\n{self._tail()}")
        status = self._terminate(timeout_s)
        if status is None:
            self._process.kill()
            self._process.wait()
            raise ServerFailed(f"no end {timeout_s} s after SIGTERM\n{self._tail()}")
        if status != 0:
            raise ServerFailed(f"exit status {status} after SIGTERM\n{self._tail()}")

    def _terminate(self, timeout_s):
        """The exit status after SIGTERM, None if the server is still there when time is up."""
        # Python's handler raises SystemExit where the signal strikes. Inside a callback of uvloop
        # that only breaks one connection and the server goes on, so there it takes another try.
        # Ours gets one signal.
        tries = round(timeout_s / RESEND_S) if IS_PYTHON else 1
        for _ in range(tries):
            self._process.send_signal(signal.SIGTERM)
            try:
                return self._process.wait(timeout_s / tries)
            except subprocess.TimeoutExpired:
                continue
        return None

    def _listening_address(self):
        sockets = _socket_inodes(self._process.pid)
        if "/" in self._wanted:
            return self._wanted if sockets & _listening_unix_inodes() else None
        host, _, port = self._wanted.rpartition(":")
        ports = {port for port, inode in _listening_tcp() if inode in sockets}
        if int(port) == 0 and ports:
            return host, min(ports)
        return (host, int(port)) if int(port) in ports else None

    def _tail(self):
        return self._output.read_text(errors="replace")[-OUTPUT_TAIL_CHARS:]


def _zeo_section(zeo_conf, port, log):
    from ZEO._forker import ZEOConfig

    if zeo_conf is None or isinstance(zeo_conf, dict):
        address = port if isinstance(port, (str, tuple)) else ("127.0.0.1", port or 0)
        options = zeo_conf or {}
        zeo_conf = ZEOConfig(address, log=log)
        vars(zeo_conf).update(options)
    return str(zeo_conf)


def _storage_section(storage_conf, path, blob_dir):
    conf = storage_conf or f"<filestorage>\npath {path}\n</filestorage>\n"
    if blob_dir:
        conf = f"<blobstorage>\nblob-dir {blob_dir}\n{conf}\n</blobstorage>\n"
    return conf


def _remove_filestorages(conf, directory):
    for section in re.findall(r"<filestorage\b[^>]*>(.*?)</filestorage>", conf, re.S):
        path = re.search(r"^\s*path\s+(\S+)", section, re.M).group(1)
        for suffix in FILESTORAGE_SUFFIXES:
            (directory / (path + suffix)).unlink(missing_ok=True)


def _socket_inodes(pid):
    inodes = set()
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(fd.path)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    except FileNotFoundError:
        pass
    return inodes


def _listening_tcp():
    """(port, inode) of every listening TCP socket, read from the kernel: no guessing, no race."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == TCP_LISTEN:
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _listening_unix_inodes():
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {row[6] for row in rows if int(row[3], 16) & UNIX_ACCEPTS}
