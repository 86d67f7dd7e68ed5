"""Real clients in processes of their own, one per worker, driven by the tests."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
from pathlib import Path
from typing import Any

import remote_json
from subject import PATIENCE_S, Address, environment_python

HERE = Path(__file__).resolve().parent
GENERATIONS = ("zeo6", "zeo5")
# What has worked with ZEO servers over twenty years, oldest first: environments of scripts/legacy-envs, then those above.
LEGACY_GENERATIONS = (
    "zodb3-3.7.2",
    "zodb3-3.8.6",
    "zodb3-3.9.7",
    "zodb3-3.10.7",
    "zeo-4.3.1-py27",
    "zeo-4.3.1-py36",
    "zeo-5.1.2-py27",
    "zeo-5.4.1-py27",
)
ALL_GENERATIONS = (*LEGACY_GENERATIONS, "zeo5", "zeo6")


class RemoteError(Exception):
    """An exception raised in a client process."""

    def __init__(self, class_name: str, text: str, args: tuple, attributes: dict[str, Any]) -> None:
        super().__init__(class_name, text)
        self.class_name = class_name
        self.text = text
        self.remote_args = args
        self.attributes = attributes

    @property
    def name(self) -> str:
        """The class name without its module."""
        return self.class_name.rsplit(".", 1)[-1]


class Worker:
    """A client process. Its scenarios run one at a time; several workers run at once."""

    script = "client_worker.py"
    scenarios = "scenarios"

    def __init__(self, generation: str, log: Path) -> None:
        self.generation = generation
        self.log = log
        environment = dict(os.environ, PYTHONPATH=str(HERE), PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [str(environment_python(generation)), str(HERE / self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )
        self._pending = 0

    def start(self, target: str, *args: Any, **kwargs: Any) -> None:
        """Starts a scenario, to be ended by `result`."""
        module = "" if "." in target else f"{self.scenarios}."
        self._send((module + target, args, kwargs))
        self.process.stdin.flush()
        self._pending += 1

    def running(self) -> bool:
        """Whether the oldest started scenario has no result yet."""
        ready, _, _ = select.select([self.process.stdout], [], [], 0)
        return not ready

    def result(self, patience_s: float = PATIENCE_S) -> Any:
        """The result of the oldest started scenario."""
        ready, _, _ = select.select([self.process.stdout], [], [], patience_s)
        if not ready:
            raise TimeoutError(f"a {self.generation} client did not answer; its log:\n{self.log_tail()}")
        ok, value = self._receive()
        self._pending -= 1
        if ok:
            return value
        raise RemoteError(*value)

    def do(self, target: str, *args: Any, **kwargs: Any) -> Any:
        """Runs a scenario to its end. `target` is a function of scenarios.py, or module.function."""
        self.start(target, *args, **kwargs)
        return self.result()

    def _send(self, request: tuple) -> None:
        pickle.dump(request, self.process.stdin)

    def _receive(self) -> tuple[bool, Any]:
        return pickle.load(self.process.stdout)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def reset(self) -> bool:
        """Closes what the last test opened; False when the process is not fit for another test."""
        if self.process.poll() is not None or self._pending:
            return False
        try:
            self.do("close")
        except (RemoteError, TimeoutError, OSError):
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class LegacyWorker(Worker):
    """A client process of any generation and any Python, with the scenarios that all of them understand."""

    script = "legacy_worker.py"
    scenarios = "legacy_scenarios"

    def reset(self) -> bool:
        # In these an error in the thread for the network, as after a refusal, is the end of that thread, and nothing says so.
        if self.generation in ("zodb3-3.7.2", "zodb3-3.8.6"):
            return False
        return super().reset()

    def _send(self, request: tuple) -> None:
        self.process.stdin.write(remote_json.dumps(request))

    def _receive(self) -> tuple[bool, Any]:
        ok, value = remote_json.loads(self.process.stdout.readline())
        return ok, value


class Pool:
    """Worker processes that serve one test after the other: importing ZODB takes longer than most tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: dict[tuple[str, type[Worker]], list[Worker]] = {}
        self._busy: list[Worker] = []
        self._count = 0

    def take(self, generation: str, kind: type[Worker] = Worker) -> Worker:
        idle = self._idle.setdefault((generation, kind), [])
        if idle:
            worker = idle.pop()
        else:
            self._count += 1
            worker = kind(generation, self.directory / f"{generation}-{self._count}.log")
        self._busy.append(worker)
        return worker

    def end_test(self) -> None:
        """Takes every worker back; must run while the servers still do."""
        busy, self._busy = self._busy, []
        for worker in busy:
            if worker.reset():
                self._idle[worker.generation, type(worker)].append(worker)
            else:
                worker.kill()

    def close(self) -> None:
        for worker in [*self._busy, *(w for idle in self._idle.values() for w in idle)]:
            worker.kill()


class Clients:
    """Opens clients of one generation on one server."""

    def __init__(
        self, pool: Pool, generation: str, address: Address | None = None, kind: type[Worker] = Worker
    ) -> None:
        self._pool = pool
        self._kind = kind
        self.generation = generation
        self.address = address

    def worker(self) -> Worker:
        return self._pool.take(self.generation, self._kind)

    def storage(self, address: Address | None = None, **options: Any) -> Worker:
        """A worker with an open ClientStorage."""
        worker = self.worker()
        worker.do("open_storage", address or self.address, **options)
        return worker

    def database(self, address: Address | None = None, **options: Any) -> Worker:
        """A worker with an open DB over a ClientStorage."""
        worker = self.worker()
        worker.do("open_database", address or self.address, **options)
        return worker
