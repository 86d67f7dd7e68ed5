"""zeopack, the command: what it accepts, what it asks of servers, what it says and returns.

The subject is the tool here: Python's script or ours. It packs Python's server, and ours with ours.
"""

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from fakezeo import Fake
from ledger import skip_where_differs
from rawzeo import ROOT, Z64, record, registered
from subject import PATIENCE_S, SUBJECT, filestorage, free_port, wait_until, zeopack_command

NONE_REACHABLE = "Error:\nCannot connect to any of the configured ZEO servers.\n"

# Both tools give each server a minute.
MINUTE_S = 60

SERVERS = sorted({"runzeo", SUBJECT})


def start(*args, **options):
    """The command, which can be interrupted also where these tests run in the background of a shell."""
    environment = options.pop("env", {})
    return subprocess.Popen(
        [*zeopack_command(), *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        env={**os.environ, "COLUMNS": "80", **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def finish(process, patience_s=PATIENCE_S):
    """Exit code, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def run(*args, **options):
    return finish(start(*args, **options))


def spec(address, storage=None):
    name = "" if storage is None else f":{storage}"
    return f"{address}{name}" if isinstance(address, str) else "%s:%d" % address + name


@pytest.fixture
def socket_path():
    # Short: the path of a Unix socket has room for about 100 bytes.
    path = f"/tmp/zp-{os.getpid()}-{free_port()}"
    yield path
    for suffix in ("", ":b"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


# What is accepted, and what is said about the rest


def test_without_arguments_it_explains_itself():
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: zeopack [options] [servers]\n")
    for option in ("-d DAYS, --days=DAYS", "-t TIME, --time=TIME", "--unix=", "-h HOST", "-p PORT", "-S NAME", "-U "):
        assert option in out


def test_help_and_version():
    skip_where_differs("zeopack-no-help")
    assert run("--help") == run()
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.startswith("zeopack ")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-d3"], "No servers specified."),
        (["-d3", "a"], "Invalid server specification: 'a'"),
        (["a:1:b:c"], "Invalid server specification: 'a:1:b:c'"),
        (["a:b:2"], "Invalid port in server specification: 'a:b:2'"),
        (["-u", "a:b:2"], "Invalid server specification: 'a:b:2'"),
        (["--", "-q"], "Invalid server specification: '-q'"),
        (["-t", "1:2:3:4", "a:1"], "Invalid time value: '1:2:3:4'"),
        (["-h", "x"], "If host (-h) is specified then a port (-p) must be specified as well."),
        (["-p", "0"], "No servers specified."),
    ],
)
def test_mistakes_in_values(args, text):
    assert run(*args) == (1, "", f"Error:\n{text}\n")


@pytest.mark.parametrize("time_of_day", ["noon", "1:"])
def test_a_time_that_is_none(time_of_day):
    # Python's tool dies of its ValueError.
    code, out, err = run("-t", time_of_day, "a:1")
    assert (code, out) == (1, "")
    assert f"'{time_of_day.split(':')[-1]}'" in err or f"Invalid time value: '{time_of_day}'" in err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-q"], "no such option: -q"),
        (["a:1", "-W"], "no such option: -W"),
        (["--quiet=1"], "no such option: --quiet"),
        (["-d", "x"], "option -d: invalid integer value: 'x'"),
        (["--day=1.5"], "option --days: invalid integer value: '1.5'"),
        (["-d=3"], "option -d: invalid integer value: '=3'"),
        (["-p", "08"], "option -p: invalid integer value: '08'"),
        (["-h"], "-h option requires 1 argument"),
        (["--tim"], "--time option requires 1 argument"),
    ],
)
def test_options_that_are_none(args, text):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: zeopack [options] [servers]\n")
    assert err.endswith(f"\nzeopack: error: {text}\n")


# What is asked of a server


@pytest.mark.parametrize("greeting", [b"Z5", b"M5"])
def test_a_pack_is_asked_for_read_only_and_waited_for(greeting):
    with Fake(greeting=greeting) as fake:
        before = time.time()
        assert run(spec(fake.address, "main")) == (0, "", "")
        after = time.time()
        assert fake.asked("register") == [("main", True)]
        [(packed_to, wait)] = fake.asked("pack")
        assert before <= packed_to <= after
        assert wait is True


def local_midnight(zone, now):
    code = "import sys, time; t = time.localtime(float(sys.argv[1])); print(time.mktime(t[:3] + (0, 0, 0) + t[6:]))"
    done = subprocess.run(
        ["python3", "-c", code, str(now)], env={**os.environ, "TZ": zone}, capture_output=True, check=True
    )
    return float(done.stdout)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Auckland", "America/New_York"])
@pytest.mark.parametrize(
    ("args", "offset_s"),
    [
        (["-d3", "-t1:30"], 5400 - 3 * 86400),
        (["--days=010", "--time", "0"], -8 * 86400),
        (["-t", "23:59:58"], 86398),
        (["-t", "25"], 90000),
        (["-d", "-1", "-t", "-1:30"], 86400 - 1800),
    ],
)
def test_days_and_times(zone, args, offset_s):
    with Fake() as fake:
        midnights = {local_midnight(zone, time.time())}
        assert run(*args, spec(fake.address), env={"TZ": zone}) == (0, "", "")
        midnights.add(local_midnight(zone, time.time()))
        [(packed_to, _)] = fake.asked("pack")
        assert packed_to - offset_s in midnights


def test_days_without_a_time():
    with Fake() as fake:
        before = time.time()
        assert run("-d", "0x10", spec(fake.address))[0] == 0
        [(packed_to, _)] = fake.asked("pack")
        assert before <= packed_to + 16 * 86400 <= time.time()


def test_every_way_to_name_a_server(socket_path):
    with Fake() as tcp, Fake(unix=socket_path) as unix, Fake(unix=socket_path + ":b") as colon:
        args = ["-u", socket_path, f"-u{socket_path}:spam", spec(tcp.address), spec(tcp.address, "2")]
        deprecated = ["-h", "localhost", "-p", tcp.address[1], "-S", "old", "-U", socket_path + ":b"]
        assert run(*args, *deprecated) == (0, "", "")
        assert [name for name, _ in tcp.asked("register")] == ["old", "1", "2"]
        assert [name for name, _ in unix.asked("register")] == ["1", "spam"]
        # Only -U takes a path with a colon.
        assert [name for name, _ in colon.asked("register")] == ["old"]
        assert [len(fake.asked("pack")) for fake in (tcp, unix, colon)] == [3, 2, 1]


def test_ipv6():
    with Fake(host="::1") as fake:
        assert run("-h", "::1", "-p", fake.address[1]) == (0, "", "")
        assert len(fake.asked("pack")) == 1


def test_ipv6_in_brackets():
    skip_where_differs("zeopack-no-brackets")
    with Fake(host="::1") as fake:
        assert run(f"[::1]:{fake.address[1]}:x") == (0, "", "")
        assert fake.asked("register") == [("x", True)]


# What goes wrong


def test_a_pack_that_fails_is_the_end():
    with Fake() as fails, Fake() as later:
        fails.faults["pack"] = ("ZODB.FileStorage.FileStorage.FileStorageError", ("Already packing",))
        code, _, err = run(spec(fails.address), spec(later.address))
        assert code == 1
        assert "Already packing" in err
        assert err.endswith(f"\nError:\nError packing storage 1 in {fails.address!r}\n")
        assert later.asked("register") == []


@pytest.mark.timeout(2 * MINUTE_S)
def test_servers_that_are_not_there():
    """The one that is gets packed; a minute for each of the others, so both cases run side by side."""
    with Fake() as up:
        down = ("127.0.0.1", free_port())
        some = start(spec(down), spec(up.address))
        none = start(spec(down, "x"))
        (code, _, err), (code_of_none, _, err_of_none) = (finish(p, MINUTE_S + PATIENCE_S) for p in (some, none))
        assert code == 0
        assert f"Couldn't connect to: ({down!r}, '1')\n" in err
        assert len(up.asked("pack")) == 1
        assert code_of_none == 1
        assert f"Couldn't connect to: ({down!r}, 'x')\n" in err_of_none
        assert err_of_none.endswith(NONE_REACHABLE)


def test_a_server_that_is_about_to_start():
    with Fake() as fake:
        fake.refusing = 2
        assert run(spec(fake.address))[0] == 0
        assert fake.refusing == 0
        assert len(fake.asked("pack")) == 1


@pytest.mark.parametrize("greeting", [b"Z4", b"Z310", b"HTTP/1.1 400"])
def test_another_protocol(greeting):
    """Python's tool tries for a minute and does not say why."""
    skip_where_differs("zeopack-gives-no-reason")
    with Fake(greeting=greeting) as fake:
        code, out, err = run(spec(fake.address))
        assert (code, out) == (1, "")
        assert err.startswith(f"Couldn't connect to: ({fake.address!r}, '1')\n")
        assert greeting.decode() in err
        assert "protocol 5 is needed" in err
        assert err.endswith(NONE_REACHABLE)


def test_a_server_that_ends_during_the_pack():
    with Fake(greeting=b"M5") as fake:
        fake.vanishing = {"pack"}
        code, _, err = run(spec(fake.address))
        assert code == 1
        assert "lost" in err or "disconnected" in err.lower()
        assert err.endswith(f"\nError:\nError packing storage 1 in {fake.address!r}\n")


def test_an_unknown_storage_is_told_at_once(make_server):
    skip_where_differs("zeopack-gives-no-reason")
    server = make_server(subject="runzeo")
    server.log.allow("unknown storage")
    code, _, err = run(spec(server.address, "nope"))
    assert code == 1
    assert err.startswith(f"Couldn't connect to: ({server.address!r}, 'nope')\nbuiltins.ValueError: unknown storage")


def test_ctrl_c_leaves_the_pack_to_the_server():
    with Fake() as fake:
        fake.silent.add("pack")
        process = start(spec(fake.address))
        wait_until(lambda: fake.asked("pack"), "the pack is asked for")
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process)
        assert code == 1
        skip_where_differs("zeopack-no-progress")
        assert err == f"Interrupted. The pack of storage 1 in {fake.address!r} goes on at the server.\n"


# Real servers


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("subject", SERVERS)
def test_history_is_gone_afterwards(make_server, tmp_path, subject, unix, msgpack):
    files = [filestorage(tmp_path / "a.fs", "1"), filestorage(tmp_path / "b.fs", "b")]
    server = make_server(files, subject=subject, unix=unix, msgpack=msgpack)
    clients = {name: registered(server.address, name) for name in ("1", "b")}

    def revisions(name):
        return len(clients[name].call("history", ROOT, 10))

    for client in clients.values():
        serial = Z64
        for value in range(3):
            serial = client.commit((ROOT, serial, record(value)))
    option = ["-u"] if unix else []
    assert run("-d1", *option, spec(server.address)) == (0, "", "")
    assert (revisions("1"), revisions("b")) == (3, 3)
    assert run(*option, spec(server.address, "b")) == (0, "", "")
    assert (revisions("1"), revisions("b")) == (3, 1)
    assert run(*option, spec(server.address)) == (0, "", "")
    assert (revisions("1"), revisions("b")) == (1, 1)
    for client in clients.values():
        client.close()


# The bar


def on_terminal(fake):
    """Starts the tool with its stderr on a terminal, and returns it with a function that waits for text there."""
    leader, follower = pty.openpty()
    process = start(spec(fake.address), stderr=follower)
    os.close(follower)
    shown = []

    def read_until(pattern):
        def found():
            while select.select([leader], [], [], 0)[0]:
                try:
                    shown.append(os.read(leader, 4096).decode())
                except OSError:
                    break  # the other end is closed
                if not shown[-1]:
                    break
            return re.search(pattern, "".join(shown))

        return wait_until(found, f"{pattern} on the terminal, in {shown}")

    return process, read_until


def test_progress_on_a_terminal():
    skip_where_differs("zeopack-no-progress")
    with Fake() as fake:
        fake.silent.add("pack")
        process, read_until = on_terminal(fake)
        read_until(r"storage 1: packing, 0:0\d")
        for done, percent in ((5, " 25%"), (10, " 50%")):
            fake.status = {"1": {"packing": {"phase": "copying", "done": done, "total": 20, "started": 1.0}}}
            read_until(rf"storage 1: \[#+-+\] {percent} copying")
        read_until(r"copying, 0:\d\d left  0:\d\d")
        fake.released.set()
        read_until(r"\r\x1b\[KPacked storage 1 in .*, 0:\d\d")
        assert finish(process)[0] == 0


def test_ctrl_c_on_a_terminal():
    skip_where_differs("zeopack-no-progress")
    with Fake() as fake:
        fake.silent.add("pack")
        process, read_until = on_terminal(fake)
        read_until("storage 1: packing")
        process.send_signal(signal.SIGINT)
        read_until(r"\r\x1b\[KInterrupted. The pack of storage 1 in .* goes on at the server.")
        assert process.wait(PATIENCE_S) == 1
