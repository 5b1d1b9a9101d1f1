"""A job's connection to a Ray cluster: joined at its start, watched while it waits, left at its end."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import structlog
from shoal.errors import EngineUnavailable, InvalidRequest, JsonValue, RayUnavailable
from shoal.host import available_cores
from shoal.process import spawn, stop
from shoal.schemas.execution import Execution, cluster_address
from shoal.settings import Settings

from clusterer.ray.folder import folder_of_process

POLL_S = 0.5
"""How often a wait looks whether the job was cancelled and the cluster's head still answers."""
CONNECT_S = 5.0
"""How long the head may take to accept a connection, and how long it may not before it counts as lost."""
JOIN_S = 60.0
"""How long this machine's node may take to join a cluster."""
PATIENCE_S = 300.0
"""How long a job waits for a node that has room for a worker: an autoscaler may be starting one."""
LOOK_S = 3.0
"""How often a job that waits looks at the sizes of the nodes."""
STORE_BYTES = 256 * 2**20
"""Size of this machine's object store; Ray writes to a file what does not fit."""
LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 for the machine's address on its network."""
TOKEN = "RAY_AUTH_TOKEN"
OnWait = Callable[[], object]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Workers:
    """The workers of a job.

    Attributes
    ----------
    count
        How many run at once.
    cpus, gpus, memory
        What each asks for, in cores, devices and bytes.
    """

    count: int
    cpus: int
    gpus: int
    memory: int

    @property
    def options(self) -> dict[str, int]:
        """As the options of a Ray task or actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.cpus} CPUs{gpus} and {self.memory / 2**30:.1f} GiB of memory"


class Session:
    """A connected cluster.

    Parameters
    ----------
    ray
        The library.
    address
        ``host:port`` of the head.
    own
        Whether the cluster is this machine alone, started for the job.
    """

    def __init__(self, ray: ModuleType, address: str, *, own: bool) -> None:
        self.ray = ray
        self.address = address
        self.own = own
        self._answered_at = self._asked_at = time.monotonic()
        self._answers = True
        self._fitted_at = self._looked_at = time.monotonic()

    def workers(self, execution: Execution, memory: int) -> Workers:
        """The workers that a request asks for: by default one on each node, with all its cores.

        Parameters
        ----------
        memory
            Bytes of each unless the request says otherwise, or a node has less.
        """
        asked = execution.resources
        nodes = [each["Resources"] for each in self.nodes()]
        cores = [int(each["CPU"]) for each in nodes] or [available_cores()]
        count = execution.workers or len(cores)
        on_a_node = -(-count // len(cores))
        cpus = (asked.cpus if asked else None) or max(1, min(cores) // on_a_node)
        offered = [int(each["memory"]) // on_a_node for each in nodes if "memory" in each]
        limit = (asked.memory if asked else None) or min([memory, *offered])
        return Workers(count, cpus, asked.gpus if asked else 0, int(limit))

    def record(self, workers: Workers) -> dict[str, JsonValue]:
        """For run.json: the cluster, how many workers or tasks ran at once, and what each asked for."""
        asked = {"workers": workers.count, "cpus": workers.cpus, "gpus": workers.gpus}
        return {"engine": "ray", "address": self.address, **asked}

    def nodes(self) -> list[dict[str, JsonValue]]:
        """The nodes that run tasks: alive, with cores."""
        return [each for each in self.ray.nodes() if each["Alive"] and each["Resources"].get("CPU", 0) >= 1]

    def check(self) -> None:
        """Raise `RayUnavailable` if the head has not accepted a connection for some seconds; call it often.

        Ray itself would wait for a minute and then end the process.
        """
        now = time.monotonic()
        if now - self._asked_at < POLL_S:
            return
        self._asked_at = now
        error = refusal(self.address, CONNECT_S)
        self._answers = error is None
        if error is None:
            self._answered_at = time.monotonic()
        elif time.monotonic() - self._answered_at >= CONNECT_S:
            raise RayUnavailable(
                f"The head of the Ray cluster at {self.address} is lost: {error}. The job goes on from what is kept "
                "once the cluster is back.",
                address=self.address,
            )

    def require_room(self, workers: Workers) -> None:
        """Raise unless a node has room for a worker, or had some a while ago; call it often.

        Raises
        ------
        InvalidRequest
            This machine alone is the cluster.
        RayUnavailable
            The nodes of another cluster were too small, or none, for `PATIENCE_S`.
        """
        if not self._answers or time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        nodes = self.nodes()
        if any(_fits(each["Resources"], workers) for each in nodes):
            self._fitted_at = time.monotonic()
            return
        seen = sorted({_size(each["Resources"]) for each in nodes})
        text = f"Each worker asks for {workers}, but the nodes of the Ray cluster at {self.address} have "
        text += f"{'; '.join(seen) or 'no CPUs'}. Send less as `execution.resources`, or add larger nodes."
        if self.own:
            raise InvalidRequest(text, field="execution.resources")
        if time.monotonic() - self._fitted_at > PATIENCE_S:
            raise RayUnavailable(text, address=self.address)


def _fits(resources: dict[str, float], workers: Workers) -> bool:
    asked = {"CPU": workers.cpus, "GPU": workers.gpus, "memory": workers.memory}
    return all(resources.get(name, 0) >= value for name, value in asked.items())


def _size(resources: dict[str, float]) -> str:
    size = Workers(1, *(int(resources.get(name, 0)) for name in ("CPU", "GPU", "memory")))
    return str(size)


@contextmanager
def connect(
    execution: Execution, settings: Settings, *, store_bytes: int = STORE_BYTES, on_wait: OnWait = lambda: None
) -> Iterator[Session]:
    """Connect to the cluster of a request; everything that was started for it ends with the block.

    A node without cores joins the cluster from this machine, since Ray needs one where its driver runs, and none of the
    cluster's own nodes can be lost with it. Without an address, this machine alone becomes a cluster.

    Parameters
    ----------
    store_bytes
        Of this machine's object store.
    on_wait
        Called at least once a second while the cluster starts.

    Raises
    ------
    InvalidRequest
        The request's address is not allowed.
    EngineUnavailable
        Ray is not installed, or the cluster has another version of Ray or Python.
    RayUnavailable
        The cluster cannot be reached.
    """
    address = cluster_address(execution, settings)
    ray = load_ray()
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_process())
        options: dict[str, object] = {
            "address": address or "local",
            "_temp_dir": str(folder),
            "log_to_driver": False,
            "configure_logging": False,
        }
        if address is None:
            stack.enter_context(_own_token())
            options |= {
                "num_cpus": available_cores(),
                "object_store_memory": store_bytes,
                "include_dashboard": False,
                "_node_ip_address": LOOPBACK,
            }
        else:
            stack.enter_context(_joined(address, folder, store_bytes, on_wait))
        yield stack.enter_context(_session(ray, address, options))


def load_ray() -> ModuleType:
    """The library, which sends no statistics of its use.

    Raises
    ------
    EngineUnavailable
        It is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A task that outgrows the memory of its node again and again would be repeated for ever.
    os.environ.setdefault("RAY_task_oom_retries", "3")
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise EngineUnavailable(
            "`execution.engine` is `ray`, but Ray is not installed in the worker. Install it with "
            "`pip install 'shoal[ray]'`, or leave `execution` out.",
            field="execution.engine",
        ) from None
    library: ModuleType = ray
    return library


def refusal(address: str, timeout_s: float) -> str | None:
    """Why a connection to ``host:port`` fails; None if it does not."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except OSError as error:
        return _why(error)
    return None


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def _session(ray: ModuleType, address: str | None, options: dict[str, object]) -> Iterator[Session]:
    try:
        with _own_signals():
            context = ray.init(**options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise RayUnavailable(f"Ray did not start: {_line(error)}", address=address) from error
    session = Session(ray, address or context.address_info["gcs_address"], own=address is None)
    try:
        yield session
    finally:
        with _own_signals():
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers of signals, which Ray replaces: a worker asks its job to stop with SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _own_token() -> Iterator[None]:
    """Let no other user of this machine use a cluster that is started for a job; Ray would keep its token in a file."""
    before = os.environ.get(TOKEN)
    os.environ[TOKEN] = before or _token_of_process()
    try:
        yield
    finally:
        if before is None:
            del os.environ[TOKEN]


@cache
def _token_of_process() -> str:
    """One for all clusters of this process: Ray reads its token once."""
    return secrets.token_hex(32)


@contextmanager
def _joined(address: str, folder: Path, store_bytes: int, on_wait: OnWait) -> Iterator[None]:
    """Let a node of this machine, without cores, join a cluster; it ends with this process at the latest."""
    try:
        own_ip = _own_ip(address)
    except OSError as error:
        raise RayUnavailable(
            f"No Ray cluster answers at {address}: {_why(error)}. Start one with `ray start --head`, or correct "
            "RAY_ADDRESS.",
            address=address,
        ) from error
    log = folder / "node.log"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--address={address}", f"--node-ip-address={own_ip}", f"--temp-dir={folder}"]
    command += ["--num-cpus=0", "--num-gpus=0", f"--object-store-memory={store_bytes}", "--include-log-monitor=false"]
    with log.open("wb") as output:
        # In this process's group, which a worker kills as a whole.
        node = spawn(command, death_signal=signal.SIGKILL, new_session=False, stdout=output, stderr=output)
    try:
        until = time.monotonic() + JOIN_S
        while b"runtime started" not in log.read_bytes():
            if node.poll() is not None or time.monotonic() > until:
                raise not_joined(address, log.read_text(errors="replace"))
            on_wait()
            time.sleep(0.1)
        yield
    finally:
        # Ray waits for a lost head for half a minute.
        stop(node, 5.0 if refusal(address, 1.0) is None else 0.0)


def _own_ip(address: str) -> str:
    """The address at which nodes of the cluster reach this machine."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as opened:
        head: str = opened.getpeername()[0]
        own: str = opened.getsockname()[0]
    return head if head.startswith("127.") else own


def not_joined(address: str, log: str) -> EngineUnavailable | RayUnavailable:
    """The error of a node that ended, by the last words of its log."""
    before, found, mismatch = log.rpartition("Version mismatch:")
    if found:
        return EngineUnavailable(
            f"The Ray cluster at {address} has other versions than this worker. {' '.join(mismatch.split())[:500]} "
            "Install the same versions of Ray and Python on all.",
            field="execution.address",
        )
    _log.warning("this machine's node did not join the cluster", address=address, log=before[-4000:] or log[-4000:])
    words = (log.strip().splitlines() or ["it did not answer"])[-1].strip()[:500]
    return RayUnavailable(f"This machine did not join the Ray cluster at {address}: {words}", address=address)


def _line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(str(cause).split())[:500] or type(cause).__name__
