"""A real Kubo daemon in a repository of its own, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pytest

KUBO_VERSION = "0.42.0"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20


def ipfs_binary() -> Path | None:
    """The `ipfs` on PATH, or the one that scripts/build_kubo.sh has built into the cache."""
    if on_path := shutil.which("ipfs"):
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
    """An offline daemon on free loopback ports: `with KuboDaemon(binary) as daemon: KuboStore(daemon.api)`.

    config: settings to write before it starts, such as {"Import.CidVersion": "0"} (values in JSON).
    """

    def __init__(self, binary: Path, config: Mapping[str, str] | None = None) -> None:
        self._binary = binary
        self._config = dict(config or {})
        self._process: subprocess.Popen[str] | None = None
        self.repo = Path(tempfile.mkdtemp(prefix="kubo-"))

    def __enter__(self) -> KuboDaemon:
        try:
            self.ipfs("init", "--profile=test,unixfs-v1-2025")
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

    def ipfs(self, *arguments: str) -> str:
        """Runs an `ipfs` command against this repository and returns what it printed."""
        done = subprocess.run(
            [self._binary, *arguments], env=self._environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ipfs {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """Starts the daemon and returns when it says that it is ready."""
        self._process = subprocess.Popen(
            [self._binary, "daemon", "--offline"],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = []
        # The daemon talks until it is ready or has failed, so this loop waits for exactly that.
        for line in self._process.stdout:
            said.append(line)
            if "Daemon is ready" in line:
                return
        raise AssertionError(f"the daemon ended with {self._process.wait(_START_TIMEOUT_S)}:\n{''.join(said)}")

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

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self.repo), "IPFS_TELEMETRY": "off"}
