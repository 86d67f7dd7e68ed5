"""zeopasswd, the command: what it accepts, the file that it makes, what it says and returns.

The subject is the tool here: ours, or the script of ZEO 4, the last one that had it.
"""

import os
import pty
import re
import select
import stat
import subprocess
from pathlib import Path

import pytest

from generations import need_environment
from ledger import differs, skip_where_differs
from rawauth import DATABASE, PASSWORD, REALM, USER, Guarded, authentication, hexdigest
from subject import PATIENCE_S, SUBJECT, environment_python, runzeo_command, section

ORIGINAL = "zeo-4.3.1-py27"
TOOLS = sorted({"runzeo", SUBJECT})


def command(tool):
    if tool == "runzeo":
        need_environment(ORIGINAL)
        return str(environment_python(ORIGINAL).with_name("zeopasswd"))
    return str(Path(runzeo_command(tool)[0]).with_name("zeopasswd"))


class Tool:
    """The command on one password database."""

    def __init__(self, directory, name):
        self.command = command(name)
        self.file = directory / "passwd"
        self.conf = directory / "zeo.conf"

    def run(self, *args, asked="", **options):
        """Exit code and everything that was said. `asked` is what it can read: a file, no terminal."""
        done = subprocess.run(
            [self.command, *map(str, args)],
            input=asked,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            start_new_session=True,
            **options,
        )
        return done.returncode, done.stdout + done.stderr

    def on_file(self, *args, **options):
        return self.run("-p", "digest", "-f", self.file, *args, **options)

    def on_conf(self, *args, **keys):
        self.configure(**keys)
        return self.run("-C", self.conf, *args)

    def configure(self, **keys):
        self.conf.write_text(section("zeo", address="127.0.0.1:0", **keys) + "\n<mappingstorage 1>\n</mappingstorage>\n")

    def mode(self):
        return stat.S_IMODE(self.file.stat().st_mode)


@pytest.fixture
def tool(tmp_path):
    return Tool(tmp_path, SUBJECT)


def line(user, password):
    return f"{user}: {hexdigest(f'{user}:{REALM}:{password}')}\n"


# The file.


def test_users_come_and_go(tool):
    assert tool.on_file("-r", REALM, USER, PASSWORD) == (0, "")
    assert tool.file.read_text() == DATABASE
    assert tool.on_file("zoe", "with a space") == (0, "")
    assert tool.on_file("-r", REALM, "Änne", "paßwort") == (0, "") or differs("zeopasswd-ascii-only")
    assert tool.on_file("Bob", "x") == (0, "")
    others = line("zoe", "with a space") + ("" if differs("zeopasswd-ascii-only") else line("Änne", "paßwort"))
    assert tool.file.read_text() == f"realm {REALM}\n{line('Bob', 'x')}{DATABASE.splitlines()[1]}\n{others}"
    assert tool.on_file("-d", "zoe") == (0, "")
    assert "zoe" not in tool.file.read_text()


def test_the_file_is_that_of_the_configuration(tool):
    keys = authentication(tool.file)
    assert tool.on_conf(USER, PASSWORD, **keys) == (0, "")
    assert tool.file.read_text() == DATABASE
    assert tool.on_conf("-d", USER, **keys) == (0, "")
    assert tool.file.read_text() == f"realm {REALM}\n"


@pytest.mark.parametrize("writer", TOOLS)
def test_servers_read_what_tools_write(make_server, tmp_path, writer):
    tool = Tool(tmp_path, writer)
    assert tool.on_file("-r", REALM, USER, PASSWORD) == (0, "")
    assert tool.on_file("other", "x") == (0, "")
    server = Guarded(make_server, tool.file, "python 3")
    server.registered()
    server.expect("wrong password")
    assert server.client().authenticate(password="x") is False


@pytest.mark.parametrize("writer", TOOLS)
def test_tools_read_what_tools_write(tmp_path, writer):
    writer, tool = Tool(tmp_path, writer), Tool(tmp_path, SUBJECT)
    assert writer.on_file("-r", REALM, "zoe", "x") == (0, "")
    assert tool.on_file(USER, PASSWORD) == (0, "")
    assert tool.file.read_text() == DATABASE + line("zoe", "x")
    assert writer.on_file("-d", "zoe") == (0, "")
    assert tool.file.read_text() == DATABASE


def test_nobody_else_may_read_it(tool):
    skip_where_differs("zeopasswd-file-for-all")
    tool.on_file("-r", REALM, USER, PASSWORD, umask=0)
    assert tool.mode() == 0o600
    tool.file.chmod(0o664)
    tool.on_file("bob", "x")
    assert tool.mode() == 0o660, "a group that was let in stays"


def test_a_link_stays_a_link(tool):
    target = tool.file.with_name("elsewhere")
    tool.file.symlink_to(target)
    for user in ("bob", "zoe"):
        assert tool.on_file("-r", REALM, user, "x") == (0, "")
    assert tool.file.is_symlink()
    assert target.read_text() == f"realm {REALM}\n" + line("bob", "x") + line("zoe", "x")


# Passwords that are not on the command line.


def test_a_password_is_read_where_there_is_no_terminal(tool):
    code, said = tool.on_file("-r", REALM, USER, asked=f"{PASSWORD}\n")
    assert code == 0
    assert PASSWORD not in said
    assert tool.file.read_text() == DATABASE


def test_nothing_to_read_is_no_password(tool):
    code, said = tool.on_file("-r", REALM, USER)
    assert code == 1
    assert "no password: " in said or differs("zeopasswd-tracebacks")
    assert not tool.file.exists()


def test_a_password_is_asked_for_without_an_echo(tool):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [tool.command, "-p", "digest", "-f", str(tool.file), "-r", REALM, USER],
        start_new_session=True,
        preexec_fn=lambda: os.login_tty(terminal),
    )
    os.close(terminal)
    said = read_until(controller, b"Enter password: ")
    os.write(controller, PASSWORD.encode() + b"\n")
    assert process.wait(PATIENCE_S) == 0
    said += read_rest(controller)
    assert said.split() == [b"Enter", b"password:"]
    assert tool.file.read_text() == DATABASE


def read_until(controller, text):
    said = b""
    while not said.endswith(text):
        ready, _, _ = select.select([controller], [], [], PATIENCE_S)
        assert ready, said
        said += os.read(controller, 1000)
    return said


def read_rest(controller):
    said = b""
    while True:
        try:
            part = os.read(controller, 1000)
        except OSError:
            # What Linux says at the end of a terminal.
            part = b""
        if not part:
            os.close(controller)
            return said
        said += part


def test_who_will_be_refused_is_not_asked(tool):
    skip_where_differs("zeopasswd-asks-in-vain")
    tool.on_file("-r", REALM, USER, PASSWORD)
    code, said = tool.on_file(USER)
    assert (code, said) == (1, f"Error: User {USER} already exists\n")


# Mistakes.


USAGE = [
    ([], "Error: Must specifiy configuration file or protocol and database"),
    (["-p", "digest", "u"], "Error: Must specifiy configuration file or protocol and database"),
    (["-f", "x", "u", "p"], "Error: Must specifiy configuration file or protocol and database"),
    (["-p", "digest", "-f", "x"], "Error: Must specify a username"),
    (["-p", "digest", "-f", "x", "-d"], "Error: Must specify a username to delete"),
    (["-p", "digest", "-f", "x", "u", "p", "q"], "Error: Too many arguments"),
    (["-p", "digest", "-f", "x", "-d", "u", "p"], "Error: Too many arguments"),
    (["-q"], "option -q not recognized"),
    (["--quiet"], "option --quiet not recognized"),
    (["-f"], "option -f requires argument"),
]


@pytest.mark.parametrize(("args", "text"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_command_lines_that_make_no_sense(tool, args, text):
    code, said = tool.run(*args)
    assert code == 2
    assert said.endswith(f"\n{text}\n")
    assert re.search("usage: .*zeopasswd.* .options. username .password.", said, re.I)


def test_a_configuration_and_options(tool):
    code, said = tool.on_conf("-p", "digest", "-f", "x", "u", "p", **authentication(tool.file))
    assert (code, said.splitlines()[-1]) == (2, "Error: Conflicting options; use either -C *or* -p and -f")


def test_a_configuration_without_passwords(tool):
    code, said = tool.on_conf("u", "p")
    assert (code, said.splitlines()[-1]) == (2, "Error: configuration does not specify auth protocol")
    code, said = tool.on_conf("u", "p", authentication_protocol="digest")
    assert (code, said.splitlines()[-1]) == (2, "Error: configuration does not specify auth database")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([USER, "x"], f"User {USER} already exists"),
        (["-d", "zz"], "No such user: zz"),
        (["-r", "Other", "u", "p"], f"Specified realm 'Other' differs from database realm '{REALM}'"),
        (["-r", "Other", "-d", USER], f"Specified realm 'Other' differs from database realm '{REALM}'"),
        (["-p", "foo", "u", "p"], "Unknown database type 'foo'"),
        (["-p", "srp", "u", "p"], None),
        (["-f", "/nonexistent/passwd", "-r", REALM, "u", "p"], "/nonexistent/passwd"),
        (["-C", "/nonexistent/zeo.conf", "u", "p"], None),
    ],
)
def test_what_cannot_be_done(tool, args, text):
    tool.file.write_text(DATABASE)
    code, said = tool.run(*args) if "-C" in args else tool.on_file(*args)
    assert code == 1
    assert text is None or text in said
    assert tool.file.read_text() == DATABASE
    if not differs("zeopasswd-tracebacks"):
        assert said.startswith("Error: ") and said.count("\n") <= 2
        assert "nonexistent" not in " ".join(args) or "No such file or directory" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DATABASE + "\n", "line 3: expected `user: hash`"),
        ("# passwords\n", "line 1: expected `user: hash`"),
        ("bob: s3cret\n", "line 1: the hash is not 40 lower-case hexadecimal digits"),
    ],
)
def test_a_file_that_is_none(tool, text, reason):
    tool.file.write_text(text)
    code, said = tool.on_file("-r", REALM, "u", "p")
    if differs("zeopasswd-tracebacks"):
        assert code == 1 or "s3cret" in text
        return
    assert code == 1
    assert f"password database {tool.file}, {reason}" in said
    assert "s3cret" not in said
    assert tool.file.read_text() == text


# The traps.


def test_realm_takes_a_value(tool):
    skip_where_differs("zeopasswd-realm-takes-none")
    assert tool.on_file("--realm", REALM, USER, PASSWORD) == (0, "")
    assert tool.file.read_text() == DATABASE
    code, said = tool.on_conf("-r", REALM, "u", "p", **authentication(tool.file))
    assert (code, said.splitlines()[-1]) == (2, "Error: Conflicting options; use either -C *or* -p and -f")


def test_what_the_help_calls_options_are_some(tool):
    skip_where_differs("zeopasswd-long-options-missing")
    tool.file.write_text(DATABASE)
    assert tool.on_file("--delete", USER) == (0, "")
    assert tool.file.read_text() == f"realm {REALM}\n"
    tool.configure(**authentication(tool.file))
    assert tool.run("--configuration", tool.conf, USER, PASSWORD) == (0, "")
    assert tool.file.read_text() == DATABASE
    for switch in ("-h", "--help"):
        code, said = tool.run(switch)
        assert (code, said.splitlines()[0]) == (0, "Keep the passwords of a ZEO server with digest authentication.")
    code, said = tool.run("--version")
    assert code == 0 and said.startswith("zeopasswd ")


def test_a_password_is_replaced(tool):
    skip_where_differs("zeopasswd-changes-nothing")
    tool.on_file("-r", REALM, USER, "earlier")
    assert tool.on_file("--replace", USER, PASSWORD) == (0, "")
    assert tool.on_file("--replace", "zoe", asked="x\n") == (0, "")
    assert tool.file.read_text() == DATABASE + line("zoe", "x")
    code, said = tool.on_file("--replace", "-d", USER)
    assert (code, said.splitlines()[-1]) == (2, "Error: Conflicting options; use either --delete or --replace")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["u", "p"], "Error: no realm: the password database .* has no line `realm NAME`; name the realm .* with -r"),
        (["-r", REALM, "a:b", "p"], "Error: user 'a:b' cannot be written .*: there is a colon in it"),
        (["-r", REALM, " a", "p"], "Error: user ' a' cannot be written .*: it begins or ends with a space"),
        (["-r", REALM, "a\nb", "p"], r"Error: user 'a\\nb' cannot be written .*: there is a control character in it"),
        (["-r", REALM, "", "p"], "Error: user '' cannot be written .*: it is empty"),
        (["-r", "R\nS", "u", "p"], r"Error: realm 'R\\nS' cannot be written .*: there is a control character in it"),
        (["-r", REALM, "u", ""], "Error: the password is empty, which clients take for none at all"),
    ],
)
def test_what_nobody_could_use_is_not_written(tool, args, text):
    skip_where_differs("zeopasswd-writes-anything")
    code, said = tool.on_file(*args)
    assert code == 1
    assert re.fullmatch(text + "\n", said)
    assert not tool.file.exists()
