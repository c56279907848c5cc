"""Ray: tasks on the machines of a cluster, or side by side on this one."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_address
from typing import Any

from accupoison.config.renamed import Say, quiet
from accupoison.errors import InputError, first_line
from accupoison.runs.engines.orders import Order
from accupoison.runs.workers import Outcome, Task

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker is told its device, and need not be kept from seeing GPUs
}
STORE = 80 * 2**20
"""Bytes of the object store of a Ray of our own, the least it takes: no results go through it."""
PORT = 6379
ANSWER = 10.0
"""Seconds that a cluster has to answer."""
POLLED = 0.2
"""Seconds between two looks at the tasks."""
GRACE = 30.0
"""Seconds that tasks have to save when they are cancelled."""


def _carry_out(order: Order) -> Outcome:
    return order()


@dataclass(frozen=True)
class Ray:
    """Carries out each task in a process of its own, which is what gives a GPU's memory back.

    Attributes:
        address: Of the cluster's head: "auto", HOST or HOST:PORT; None starts Ray on this machine.
        jobs: Tasks at once; None is as many as there is room for.
        cpus: Cores of each.
        gpus: GPUs of each; shares such as 0.25 let several use one.
        say: Told, in sentences, what to know of the cluster.
    """

    address: str | None = None
    jobs: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    say: Say = quiet

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Carry out each task; see :meth:`accupoison.runs.engines.base.Engine.run`.

        Args:
            tasks: What to do.

        Raises:
            InputError: There is no Ray, or no cluster at the address.
        """
        ray = self._connected()
        carry_out = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_calls=1, max_retries=0, scheduling_strategy="SPREAD"
        )(_carry_out)
        waiting = [Order.of(i, task, threads=self.cpus, gpu=self.gpus > 0) for i, task in enumerate(tasks)][::-1]
        going: dict[Any, int] = {}
        try:
            while waiting or going:
                while waiting and len(going) < (self.jobs or len(tasks)):
                    order = waiting.pop()
                    going[carry_out.remote(order)] = order.number
                for done in ray.wait(list(going), num_returns=1, timeout=0)[0]:
                    yield _outcome(ray, done, going.pop(done))
                time.sleep(POLLED)  # a signal that comes while Ray waits is Ctrl-C to Ray, whichever it was
        finally:
            for task in going:
                ray.cancel(task)
            if going:
                ray.wait(list(going), num_returns=len(going), timeout=GRACE)

    def _connected(self) -> Any:  # noqa: ANN401
        """Return the package, connected to a cluster.

        Raises:
            InputError: It is not installed, or nothing answers.
        """
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        ray = package("ray", "ray>=2.51")
        if not ray.is_initialized():
            before = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(log_to_driver=False, logging_level="error", **self._where())
            except (OSError, RuntimeError, ValueError) as error:
                fix = "start one by ray start --head, or drop --address" if self.address else "see ray's logs"
                raise InputError(f"no Ray at {self.address or 'this machine'} ({first_line(error)}); {fix}") from error
            finally:
                signal.signal(signal.SIGTERM, before)  # Ray has one of its own, which saves nothing
            self._look(ray)
        return ray

    def _where(self) -> dict[str, Any]:
        """Return where Ray is to be found or started.

        Raises:
            OSError: Nothing answers at the address.
            ValueError: It is none.
        """
        if self.address is None:
            here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": STORE}
            return {**here, "address": "local"}
        if self.address == "auto":
            return {"address": "auto"}
        address = self.address if ":" in self.address else f"{self.address}:{PORT}"
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), ANSWER).close()  # Ray itself would try for minutes
        return {"address": address}

    def _look(self, ray: Any) -> None:  # noqa: ANN401
        """Say what is unsafe about the cluster, and what it has no room for."""
        host = ray.get_runtime_context().gcs_address.rpartition(":")[0].strip("[]")
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and not _loopback(host):
            self.say(
                f"the Ray head on {host} can be reached from other machines and asks nobody for a token, so whoever "
                "reaches it can run programs there; set RAY_AUTH_MODE=token wherever Ray is started"
            )
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= count for kind, count in asked.items()) for node in nodes):
            self.say(
                f"no machine of the cluster has {self.cpus} CPUs and {self.gpus:g} GPUs for a run; waiting for one to "
                "join (--cpus-per-run and --gpus-per-run ask for less)"
            )


def _outcome(ray: Any, done: Any, number: int) -> Outcome:  # noqa: ANN401
    try:
        outcome: Outcome = ray.get(done)
    except ray.exceptions.RayTaskError as error:  # the order itself could not be read: another version, or none
        what = first_line(error.cause, named=True) if isinstance(error.cause, BaseException) else first_line(error)
        return Outcome(number, error=InputError(f"a Ray worker cannot read its task ({what}); install the same commit"))
    except ray.exceptions.RayError as error:
        what = f"the worker of a task was lost ({type(error).__name__}); the same command goes on with what is left"
        return Outcome(number, error=InputError(what), system=True)
    return outcome


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def package(name: str, requirement: str) -> Any:  # noqa: ANN401
    """Return an optional package.

    Args:
        name: Of the package, and of the engine's extra.
        requirement: What pip is told to install.

    Raises:
        InputError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"this engine needs the package {name}; run pip install '{requirement}'") from error
