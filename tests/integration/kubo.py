"""Real Kubo daemons, each in a repository of its own: one alone, or several in a private swarm on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pytest

KUBO_VERSION = os.environ.get("CHAINFL_TEST_KUBO", "0.42.0")
"""Which version scripts/build_kubo.sh has built; set, it is taken in place of the `ipfs` on PATH."""

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20


def ipfs_binary() -> Path | None:
    """The `ipfs` on PATH, or the one that scripts/build_kubo.sh has built into the cache."""
    if "CHAINFL_TEST_KUBO" not in os.environ and (on_path := shutil.which("ipfs")):
        return Path(on_path)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = Path(os.environ.get("CHAINFL_CACHE") or caches / "chainfl") / f"kubo-{KUBO_VERSION}" / "ipfs"
    return built if os.access(built, os.X_OK) else None


def require_ipfs_binary() -> Path:
    """The binary; without one the test is skipped with the reason, or fails where CI=true."""
    if binary := ipfs_binary():
        return binary
    reason = "no `ipfs` on PATH and none built: run scripts/build_kubo.sh (it needs Go) or install Kubo"
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI never skips: {reason}")
    pytest.skip(reason)


class KuboDaemon:
    """A daemon on free loopback ports: `with KuboDaemon(binary) as daemon: KuboStore(daemon.api)`.

    config: settings to write before it starts, such as {"Import.CidVersion": "0"} (values in JSON).
    swarm_key: of the private network that it takes part in; without one it stays offline.
    """

    def __init__(self, binary: Path, config: Mapping[str, str] | None = None, *, swarm_key: str | None = None) -> None:
        self._binary = binary
        self._config = dict(config or {})
        self._swarm_key = swarm_key
        self._process: subprocess.Popen[str] | None = None
        # A relay's thread may kill it while the test, which sees it gone, starts it again.
        self._turn = threading.Lock()
        self.repo = Path(tempfile.mkdtemp(prefix="kubo-"))

    def __enter__(self) -> KuboDaemon:
        try:
            self.ipfs("init", "--profile=test,unixfs-v1-2025")
            if self._swarm_key:
                (self.repo / "swarm.key").write_text(self._swarm_key)
                # No routing: who has a block is asked of those that the node is connected to, and of nobody else.
                self.ipfs("config", "Routing.Type", "none")
            for key, value in self._config.items():
                self.ipfs("config", "--json", key, value)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.repo)

    @property
    def api(self) -> str:
        """The multiaddr of the API that the daemon listens on; the `test` profile asks the kernel for a free port."""
        return (self.repo / "api").read_text().strip()

    @property
    def address(self) -> str:
        """Where the other nodes of its swarm reach it."""
        return self.ipfs("id", "-f", "<addrs>").splitlines()[0]

    def ipfs(self, *arguments: str) -> str:
        """Runs an `ipfs` command against this repository and returns what it printed."""
        done = subprocess.run(
            [self._binary, *arguments], env=self._environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ipfs {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def listen_again_at(self, api: str) -> None:
        """From its next start on the daemon's API is where `api` says."""
        self.ipfs("config", "Addresses.API", api)

    def start(self) -> None:
        """Starts the daemon and returns when it says that it is ready."""
        with self._turn:
            self._process = self._started()
        assert self._process.stdout is not None
        said = []
        # The daemon talks until it is ready or has failed, so this loop waits for exactly that.
        for line in self._process.stdout:
            said.append(line)
            if "Daemon is ready" in line:
                return
        raise AssertionError(f"the daemon ended with {self._process.wait(_START_TIMEOUT_S)}:\n{''.join(said)}")

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._binary, "daemon", *([] if self._swarm_key else ["--offline"])],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        """Ends the daemon and waits for it; does nothing if it has not started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def kill(self) -> None:
        """Ends the daemon as a power cut would, and waits until it is gone; does nothing if it has not started."""
        with self._turn:
            if self._process is None:
                return
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None
            # A killed daemon leaves these behind; the next one would take the first for another one's.
            for left in ("repo.lock", "api"):
                (self.repo / left).unlink(missing_ok=True)

    def pause(self) -> None:
        """Stops the running daemon where it is, as a machine that swaps or sleeps would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused daemon go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def limit_files(self, num_bytes: int) -> None:
        """From now on the system lets the running daemon write no file beyond that size, as a full disk would."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def block_path(self, cid: str) -> Path:
        """The file in the repository that holds a block."""
        name = self.ipfs("cid", "format", "-b", "base32upper", "-f", "%M", cid)
        return self.repo / "blocks" / name[-3:-1] / f"{name}.data"

    def _environment(self) -> dict[str, str]:
        private = {"LIBP2P_FORCE_PNET": "1"} if self._swarm_key else {}
        return {**os.environ, **private, "IPFS_PATH": str(self.repo), "IPFS_TELEMETRY": "off"}


class Relay:
    """Stands before a daemon's API and passes everything on: `with Relay(daemon.api) as relay: KuboStore(relay.api)`.

    at(command, act): calls `act(count)` before each request for that command is passed on, with how many came so far.
    rewrite: a part of a request's first line, and what is sent in its place.
    """

    def __init__(self, api: str) -> None:
        _, _, host, _, port = api.split("/")
        self._daemon = (host, int(port))
        self._acts: dict[str, Callable[[int], None]] = {}
        self._counts: Counter[str] = Counter()
        self.rewrite: tuple[bytes, bytes] | None = None
        self._server = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    @property
    def api(self) -> str:
        """The multiaddr to give to a client."""
        return f"/ip4/127.0.0.1/tcp/{self._server.getsockname()[1]}"

    def at(self, command: str, act: Callable[[int], None]) -> None:
        """See the class. command: such as "block/get"."""
        self._acts[command] = act

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._daemon) as daemon:
            threading.Thread(target=_pump, args=(daemon, client), daemon=True).start()
            while data := client.recv(1 << 16):
                daemon.sendall(self._seen(data))

    def _seen(self, data: bytes) -> bytes:
        # A client sends the head of a request by itself, so it starts what is received.
        match = re.match(rb"POST /api/v0/([a-z/]+)", data)
        if not match:
            return data
        command = match[1].decode()
        self._counts[command] += 1
        if act := self._acts.get(command):
            act(self._counts[command])
        return data.replace(*self.rewrite, 1) if self.rewrite else data


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def new_swarm_key() -> str:
    """The key of a private network that nobody else is in."""
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{secrets.token_hex(32)}\n"


@contextlib.contextmanager
def private_swarm(
    count: int, *, linked: bool = True, config: Mapping[str, str] | None = None
) -> Iterator[list[KuboDaemon]]:
    """`count` nodes of one private network; linked: each connected to each."""
    binary, key = require_ipfs_binary(), new_swarm_key()
    nodes = [KuboDaemon(binary, config, swarm_key=key) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(stack.enter_context, nodes))
        if linked:
            link(*nodes)
        yield nodes


def link(*nodes: KuboDaemon) -> None:
    """Connects each of the nodes to each of the others."""
    for at, node in enumerate(nodes):
        for other in nodes[:at]:
            node.ipfs("swarm", "connect", other.address)
