"""The command: switches, exit codes, signals, pid file."""

import json
import os
import signal
import subprocess

import pytest

from rawzeo import RawClient, Z64, p64, ruok
from subject import PATIENCE_S, filestorage, free_port, runzeo_command, wait_until


def run(*args, cwd, **environment):
    """Runs the command to its end."""
    return subprocess.run(
        [*runzeo_command(), *map(str, args)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_help(tmp_path):
    done = run("-h", cwd=tmp_path)
    assert done.returncode == 0
    for switch in ("--configure", "--address", "--filename", "--timeout", "--pid-file"):
        assert switch in done.stdout


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "no server address specified; use -a or -C"),
        (("-a", "127.0.0.1:1"), "no storages specified; use -f or -C"),
        (("-q",), "option -q not recognized"),
        (("positional",), "positional arguments are not supported"),
        (("-a", "127.0.0.1:99999", "-f", "x.fs"), "99999 is above upper bound (65535)"),
        (("-t", "soon", "-a", "127.0.0.1:1", "-f", "x.fs"), "invalid value for -t 'soon'"),
        (("-C", "missing.conf"), "missing.conf"),
        (("-X", "zeo/read-only=true", "-a", "127.0.0.1:1", "-f", "x.fs"), "cannot be used without a configuration"),
    ],
)
def test_wrong_usage(tmp_path, args, text):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert text in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ("<zeo>\n</zeo>\n<mappingstorage>\n</mappingstorage>\n", "no values for 'address'; 1 required"),
        ("<zeo>\n address 1\n nope 1\n</zeo>\n", "'nope' is not a known key name"),
        ("<zeo>\n address 1\n read-only 1\n</zeo>\n", "(line 3"),
        ("<zeo>\n address 1\n</zeo>\n<nope>\n</nope>\n", "unknown type name: 'nope'"),
        ("<zeo>\n address 1\n</zeo>\n", "not enough values for section type 'zodb.storage'; 0 found, 1 required"),
        (
            "<zeo>\n address 1\n</zeo>\n<mappingstorage>\n</mappingstorage>\n<mappingstorage>\n</mappingstorage>\n",
            "No more than one storage may be unnamed.",
        ),
        (
            "<zeo>\n address 1\n</zeo>\n<mappingstorage>\n</mappingstorage>\n<mappingstorage 1>\n</mappingstorage>\n",
            "Can't have an unnamed storage and a storage named 1.",
        ),
    ],
)
def test_wrong_configuration(tmp_path, conf, text):
    (tmp_path / "zeo.conf").write_text(conf)
    done = run("-C", "zeo.conf", cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr


def test_address_in_use(make_server, tmp_path):
    server = make_server()
    done = run("-a", "%s:%d" % server.address, "-f", "x.fs", cwd=tmp_path)
    assert done.returncode == 2
    assert f"address {server.address} already in use" in done.stderr
    assert not (tmp_path / "x.fs").exists()


def test_test_switch(tmp_path):
    """Starts everything, stops it, and leaves a database."""
    done = run("--test", "-a", f"127.0.0.1:{free_port()}", "-f", "x.fs", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "testing exit immediately\n"
    assert (tmp_path / "x.fs").read_bytes() == b"FS30"


def test_switches_without_a_configuration(tmp_path):
    """Two files, storages 1 and 2, the log on stderr."""
    port = free_port()
    command = [*runzeo_command(), "-a", f"127.0.0.1:{port}", "-f", "a.fs", "-f", "b.fs", "--pid-file", "zeo.pid"]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    try:
        wait_until(lambda: "listening on" in (tmp_path / "stderr").read_text(), "the server listens")
        assert set(json.loads(ruok(("127.0.0.1", port)))) == {"1", "2"}
        assert (tmp_path / "zeo.pid").read_text() == f"{process.pid}\n"
        wait_until(lambda: ended(process), "the server ends")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    log = (tmp_path / "stderr").read_text()
    assert log.startswith("------\n")
    assert " INFO ZEO.runzeo " in log
    assert not (tmp_path / "zeo.pid").exists()
    assert (tmp_path / "a.fs.index").exists()


def ended(process) -> bool:
    """Whether the process is gone, after SIGTERM; Python's may need a second one."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            return False
    return True


@pytest.mark.parametrize(("sig", "code"), [("SIGTERM", 0), ("SIGINT", 0), ("SIGHUP", 1)])
def test_signals(make_server, sig, code):
    server = make_server()
    mark = server.log.size()
    server.process.send_signal(getattr(signal, sig))
    assert server.process.wait(PATIENCE_S) == code
    server.process = None
    assert sig in server.log.text(mark)
    assert server.log.text(mark).count("closing storage '1'") == 1


def test_log_is_reopened(make_server, raw):
    server = make_server()
    moved = server.log.path.rename(server.log.path.with_suffix(".old"))
    server.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "Log files reopened successfully" in server.log.text(), "the log is reopened")
    assert "listening on" in moved.read_text()
    raw(server).commit((p64(1), Z64, b"data"))


@pytest.mark.parametrize(("override", "created"), [("zeo/read-only=true", "RO"), ("zeo/read-only=false", "RW")])
def test_override(tmp_path, override, created):
    """-X reaches into the file."""
    (tmp_path / "zeo.conf").write_text(
        f"<zeo>\n address 127.0.0.1:{free_port()}\n</zeo>\n{filestorage(tmp_path / 'x.fs')}\n"
    )
    done = run("-C", "zeo.conf", "-X", override, "--test", cwd=tmp_path)
    assert done.returncode == 0
    assert f"created {created} with storages" in done.stderr


def test_msgpack_by_environment(tmp_path):
    port = free_port()
    (tmp_path / "zeo.conf").write_text(
        f"<zeo>\n address 127.0.0.1:{port}\n</zeo>\n{filestorage(tmp_path / 'x.fs')}\n"
    )
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*runzeo_command(), "-C", "zeo.conf"],
            cwd=tmp_path,
            env={**os.environ, "ZEO_MSGPACK": "1"},
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        wait_until(lambda: "listening on" in (tmp_path / "stderr").read_text(), "the server listens")
        client = RawClient(("127.0.0.1", port))
        assert client.greeting == b"M5"
        client.close()
    finally:
        process.kill()
        process.wait()
