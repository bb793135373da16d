"""What doctor says of real daemons, gateways and dead services, and how long that takes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_server import Gateway, Request
from kubo import KuboDaemon, require_ipfs_binary

from chainfl.cli import doctor
from chainfl.cli.context import App
from chainfl.cli.doctor import Check, Finding, examine
from chainfl.errors import ContentDamaged, PinNotServed
from chainfl.storage.kubo import KuboStore

pytestmark = pytest.mark.enable_socket


def lies(request: Request) -> bool:
    request.reply(200, b"something else")
    return True


def rambles(request: Request) -> bool:
    request.reply(200, bytes(1 << 12))
    return True


def redirects(request: Request) -> bool:
    request.reply(302, headers={"Location": "http://127.0.0.2:1/ipfs/x"})
    return True


def finding_of(url: str, monkeypatch: pytest.MonkeyPatch) -> Finding:
    check = Check("gateway", lambda app: doctor._gateway(app, url), (), doctor.WITHIN_S)
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (check,))
    (finding,) = examine(App({}))
    return finding


@pytest.mark.parametrize("fault", [lies, rambles])
def test_gateway__lies__is_to_be_taken_out(fault, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gateway({}, fault) as gateway:
        finding = finding_of(gateway.url, monkeypatch)
    assert not finding.ok
    assert f"Take {gateway.url.removeprefix('http://')} out of `gateways`" in finding.hint


def test_gateway__redirects_to_where_nobody_goes__the_hint_names_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    with Gateway({}, redirects) as gateway:
        finding = finding_of(gateway.url, monkeypatch)
    assert not finding.ok
    assert f"Check that {gateway.url.removeprefix('http://')} is up" in finding.hint
    assert "127.0.0.2" in finding.told


def test_gateway__honest__is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    with Gateway({doctor.EMPTY_CID: b""}) as gateway:
        assert finding_of(gateway.url, monkeypatch).ok


@pytest.fixture
def daemon() -> Iterator[KuboDaemon]:
    with KuboDaemon(require_ipfs_binary()) as daemon:
        yield daemon


def test_kubo_pins__damaged_missing_and_whole__say_so(daemon: KuboDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINFL_KUBO_API", daemon.api)
    cid = KuboStore(daemon.api).put_bytes(b"content")
    assert doctor._kubo_pins(App({})) == "a sample of 1 can be read"
    path = daemon.block_path(cid)
    path.chmod(0o600)
    path.write_bytes(b"?")
    with pytest.raises(ContentDamaged, match="1 of 1 pins looked at cannot be read") as caught:
        doctor._kubo_pins(App({}))
    assert f"block rm {cid}`" in caught.value.hint
    path.unlink()
    with pytest.raises(PinNotServed) as missing:
        doctor._kubo_pins(App({}))
    assert f"chainfl store unpin {cid}" in missing.value.hint


def test_doctor__a_service_and_a_gateway_that_never_answer__are_told_in_seconds(
    daemon: KuboDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in {
            "STORAGE": "kubo,gateway",
            "KUBO_API": daemon.api,
            "GATEWAYS": url,
            "PINNING": f"cellar={url}",
            "PINNING_TOKEN_CELLAR": "secret-token",
            "CACHE_DIR": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(f"CHAINFL_{name}", value)
        monkeypatch.setattr(doctor, "CHAIN_CHECKS", (Check("configuration", doctor._configuration),))
        began = time.monotonic()
        found = {finding.what: finding for finding in examine(App({}))}
        took_s = time.monotonic() - began
    assert took_s < 2 * doctor.WITHIN_S
    assert [found[what].ok for what in ("Kubo daemon", "pinning service cellar", "pins of the daemon", "store")] == [
        True,
        False,
        True,
        True,
    ]
    assert url in found["pinning service cellar"].hint
