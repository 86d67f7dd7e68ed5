"""Configuration and command line: what is accepted, what is refused, and in which words.

The cases are in config_cases/*.toml. Each is run with `--test`, so that an accepted configuration is really
started. Fields of a case:

- `conf`: the text of zeo.conf; `args`: the arguments (default: `-C {conf} --test`). `{dir}` is the directory
  of the case, `{conf}` the path of its zeo.conf.
- `exit`: the exit code; `error`: what follows `Error: ` on stderr; `traceback`: the last line of Python's
  traceback, where the original ends in one.
- `zeolite`: what is different there, with the `reason`.

Where the original does not say at which line a mistake is, zeolite may do so behind the same words.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger import skip_where_differs
from subject import PATIENCE_S, SUBJECT, free_port, runzeo_command, wait_until

# Files that cases include.
_INCLUDED = {
    "inner.conf": "<mappingstorage 1>\n</mappingstorage>\n",
    "address.conf": "address 127.0.0.1:0\n",
    "defines.conf": "%define addr 127.0.0.1:0\n",
    "broken.conf": "\n<foo>\n",
    "endzeo.conf": "  address 127.0.0.1:0\n</zeo>\n",
}
_DEFAULT_CONF = "<zeo>\n  address 127.0.0.1:0\n</zeo>\n<mappingstorage 1>\n</mappingstorage>\n"


def _cases() -> Iterator[object]:
    for path in sorted((Path(__file__).parent / "config_cases").glob("*.toml")):
        for name, case in tomllib.loads(path.read_text()).items():
            yield pytest.param(case, id=f"{path.stem}/{name}")


def _environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("INSTANCE_HOME", "ZEO_MSGPACK")}
    return kept | extra


@pytest.mark.parametrize("case", list(_cases()))
def test_configuration(case: dict, tmp_path: Path) -> None:
    conf = tmp_path / "zeo.conf"

    def fill(text: str) -> str:
        return text.replace("{dir}", str(tmp_path)).replace("{conf}", str(conf))

    for name, text in _INCLUDED.items():
        (tmp_path / name).write_text(text)
    conf.write_text(fill(case.get("conf", _DEFAULT_CONF)), newline="")
    done = subprocess.run(
        [*runzeo_command(), *map(fill, case.get("args", ["-C", "{conf}", "--test"]))],
        cwd=tmp_path,
        env=_environment(ZEO_TEST_FLAG="true"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    expected = case.get(SUBJECT, case)
    stderr = done.stderr.replace(str(tmp_path), "{dir}")

    assert done.returncode == expected["exit"], stderr
    if expected["exit"] == 0:
        is_help = "-h" in case.get("args", [])
        assert ("testing exit immediately\n" in done.stdout) != is_help
        return
    assert "testing exit immediately" not in done.stdout
    if "traceback" in expected and SUBJECT == "runzeo":
        assert stderr.rstrip().splitlines()[-1] == expected["traceback"]
        return
    found = re.search(r"^Error: (.*?)(\nFor help, use \S+ -h)?\n\Z", stderr, re.S | re.M)
    assert found, stderr
    assert bool(found[2]) == (expected["exit"] == 2), stderr
    # Mistakes of a section as a whole have a column there, which is always -1.
    error = found[1].replace(", -1, in", ", in")
    if error != expected["error"] and SUBJECT == "zeolite":
        error = re.sub(r"\n\(line \d+ in file://\S+\)\Z", "", error)
    assert error == expected["error"]


def test_every_difference_has_a_reason() -> None:
    for case in _cases():
        (values,) = case.values
        if "zeolite" in values:
            assert values["zeolite"]["reason"], case.id
        assert ("error" in values) + ("traceback" in values) == (values["exit"] != 0), case.id


class Running:
    """A server that logs to a file, with its configuration."""

    def __init__(self, directory: Path, logfile: str = "", zeo: str = "", address: str = "", **environment: str):
        self.directory = directory
        self.log_path = directory / "zeo.log"
        self.address = address or f"127.0.0.1:{free_port()}"
        eventlog = f"<eventlog>\n<logfile>\npath {self.log_path}\n{logfile}\n</logfile>\n</eventlog>\n"
        conf = directory / "zeo.conf"
        conf.write_text(f"<zeo>\naddress {self.address}\n{zeo}\n</zeo>\n<mappingstorage 1/>\n{eventlog}")
        self.process = subprocess.Popen([*runzeo_command(), "-C", str(conf)], env=_environment(**environment))
        self.wait_for_line("listening on")

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_for_line(self, text: str) -> None:
        def found() -> bool:
            assert self.process.poll() is None, self.log()
            return text in self.log()

        wait_until(found, f"{text!r} in the log")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started = []

    def start(**options: str) -> Running:
        started.append(Running(tmp_path, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 0, "terminated by SIGTERM"),
        (signal.SIGINT, 0, "terminated by SIGINT"),
        (signal.SIGHUP, 1, "restarted by SIGHUP"),
    ],
)
def test_signals_stop_the_server(start: Callable[..., Running], number: int, code: int, line: str) -> None:
    running = start()
    assert running.stop(number) == code
    assert f"INFO ZEO.runzeo ({running.process.pid}) {line}\n" in running.log()
    assert "closing storage '1'" in running.log()


def test_usr2_reopens_the_log(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start()
    moved = running.log_path.rename(tmp_path / "moved.log")
    running.process.send_signal(signal.SIGUSR2)
    running.wait_for_line("Log files reopened successfully")
    assert "listening on" in moved.read_text()
    assert "listening on" not in running.log()


def test_usr2_rolls_a_rotating_log_over(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(logfile="max-size 1MB\nold-files 2")
    running.process.send_signal(signal.SIGUSR2)
    running.wait_for_line("Log files reopened successfully")
    assert "listening on" in (tmp_path / "zeo.log.1").read_text()
    assert "listening on" not in running.log()


def test_log_lines_have_the_format(start: Callable[..., Running]) -> None:
    running = start(logfile=r"format %(levelname)-8s|%(name)s|%(process)d|%(asctime)s|\t%(message)s" + "\ndateformat %Y")
    running.stop()
    pid = running.process.pid
    first = running.log().splitlines()[0]
    assert re.fullmatch(rf"INFO    \|ZEO\.runzeo\|{pid}\|20\d\d\|\t\({pid}\) opening storage '1' using MappingStorage", first)


def test_default_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [*runzeo_command(), "-a", "127.0.0.1:0", "-f", "Data.fs", "--test"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    ruler, line, *_ = done.stderr.splitlines()
    assert ruler == "------"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d INFO ZEO\.runzeo \(\d+\) opening storage '1' using FileStorage", line)


def test_pid_file(start: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "z.pid"
    path.write_text("old")
    running = start(zeo=f"pid-filename {path}")
    assert path.read_text() == f"{running.process.pid}\n"
    assert f"created PID file '{path}'" in running.log()
    running.stop()
    assert not path.exists()
    assert f"removed PID file '{path}'" in running.log()


def test_pid_file_of_an_instance(start: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    running = start(INSTANCE_HOME=str(tmp_path))
    assert (tmp_path / "var" / "ZEO.pid").read_text() == f"{running.process.pid}\n"


def test_read_only_server_writes_no_pid_file(start: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "z.pid"
    start(zeo=f"pid-filename {path}\nread-only true")
    assert not path.exists()


def test_pid_file_that_cannot_be_written(start: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "z.pid"
    (path / "directory").mkdir(parents=True)
    running = start(zeo=f"pid-filename {path}")
    assert f"ERROR ZEO.runzeo PID file '{path}' cannot be opened" in running.log()


def test_address_in_use(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start()
    host, port = running.address.split(":")
    done = _refused(running.address, tmp_path)
    assert done.startswith(f"Error: address ('{host}', {port}) already in use\nFor help, use ")


def test_unix_address_in_use(start: Callable[..., Running], tmp_path: Path) -> None:
    # A relative path: that of the test's directory may be too long for a socket.
    path = os.path.relpath(tmp_path / "s")
    start(address=path)
    assert _refused(path, tmp_path).startswith(f"Error: address '{path}' already in use\n")


def test_storages_are_closed_if_the_server_cannot_listen(tmp_path: Path) -> None:
    skip_where_differs("storages-left-open-without-address")
    done = _run(["-a", f"{tmp_path}/nope/s", "-f", "a.fs", "-f", "b.fs"], tmp_path)
    assert done.returncode == 1
    assert "closing storage '1'" in done.stderr
    assert "closing storage '2'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: cannot listen on")


def _refused(address: str, directory: Path) -> str:
    done = subprocess.run(
        [*runzeo_command(), "-a", address, "-f", str(directory / "other.fs")],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert not (directory / "other.fs").exists()
    return done.stderr[done.stderr.index("Error:") :]


def test_stale_unix_socket_is_replaced_and_removed(start: Callable[..., Running], tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    running = start(address=path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    running.stop()
    assert not Path(path).exists()


def test_help_and_version() -> None:
    for switch in ("-h", "--help", "--version"):
        done = subprocess.run([*runzeo_command(), switch], capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0
        assert done.stderr == ""
        # The texts are each subject's own; the original's version is that of zdaemon.
        assert re.search(r"\d+\.\d+" if switch == "--version" else "-a.*ADDRESS", done.stdout)


_NOT_UTF_8 = os.fsdecode(b"\xff")
_SERVED = ["-a", "127.0.0.1:0", "-f", "Data.fs", "--test"]


@pytest.mark.parametrize(
    ("arguments", "created"),
    [
        (["-f=a=.fs"], "=a=.fs"),
        (["-f", f"{_NOT_UTF_8}.fs"], f"{_NOT_UTF_8}.fs"),
        ([f"--filename={_NOT_UTF_8}.fs"], f"{_NOT_UTF_8}.fs"),
    ],
)
def test_file_names_are_taken_as_they_are(tmp_path: Path, arguments: list[str], created: str) -> None:
    done = _run(["-a", "127.0.0.1:0", *arguments, "--test"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / created).exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([*_SERVED, "-t", f"5{_NOT_UTF_8}"], "invalid value for -t '5"),
        ([f"--test{_NOT_UTF_8}"], "option --test"),
        ([f"-{_NOT_UTF_8}"], "option -"),
        ([f"--test={_NOT_UTF_8}"], "option --test must not have an argument"),
        ([_NOT_UTF_8], "positional arguments are not supported"),
    ],
)
def test_arguments_that_are_no_text(tmp_path: Path, arguments: list[str], error: str) -> None:
    done = _run(arguments, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {error}")
    assert os.listdir(tmp_path) == []


def _run(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*runzeo_command(), *arguments],
        cwd=directory,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_check_config_opens_nothing(tmp_path: Path) -> None:
    skip_where_differs("no-check-config")
    conf = tmp_path / "zeo.conf"
    conf.write_text(f"<zeo>\naddress 8100\n</zeo>\n<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n")
    command = [*runzeo_command(), "-C", str(conf), "--check-config"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    assert done.stdout == f"address: ('', 8100)\nstorage '1': FileStorage {tmp_path}/Data.fs\n"
    assert os.listdir(tmp_path) == ["zeo.conf"]
    conf.write_text(
        "%define zeolite_pack_rate 50MB\n%define zeolite_pack_extra_roots 0x1234 1:0x5 main:0x6\n<zeo>\naddress 8100\n</zeo>\n"
        "<filestorage>\npath a.fs\nread-only yes\n</filestorage>\n<filestorage Main>\npath b.fs\n</filestorage>\n"
    )
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    rate = "packed with at most 52428800 bytes/s"
    assert done.stdout.splitlines()[1:] == [
        f"storage '1': FileStorage a.fs, read-only, {rate}, packed from root 0x1234, too, packed from root 0x05, too",
        f"storage 'main': FileStorage b.fs, {rate}, packed from root 0x1234, too, packed from root 0x06, too",
    ]
    conf.write_text("<zeo>\n")
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: unclosed sections not allowed\n(line 1 in file://")
