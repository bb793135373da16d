"""Tokens, and a service's messages as a stranger may send them; the client itself is in tests/integration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainfl.errors import TokenMissing
from chainfl.storage.pinning import PinningService, PinStatus, read_token
from chainfl.storage.unixfs import cid_of

CID = cid_of(b"content")
GOOD: dict[str, Any] = {
    "requestid": "7",
    "status": "pinning",
    "created": "2026-01-01T00:00:00Z",
    "pin": {"cid": CID},
    "delegates": ["/dnsaddr/node.example"],
    "info": {"status_details": "3 of 9"},
}


def test_token__in_the_environment_and_in_a_file__the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "pinning-my-cellar.token"
    path.write_text("from-file\n")
    path.chmod(0o600)
    assert read_token("my-cellar", tmp_path, {}) == "from-file"
    assert read_token("my-cellar", tmp_path, {"CHAINFL_PINNING_TOKEN_MY_CELLAR": "from-env"}) == "from-env"


def test_token__nowhere__says_where_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(TokenMissing) as caught:
        read_token("cellar", tmp_path, {})
    assert "CHAINFL_PINNING_TOKEN_CELLAR" in caught.value.hint
    assert "pinning-cellar.token" in caught.value.hint
    assert caught.value.exit_code == 16


def test_token__file_that_others_can_read__is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pinning-cellar.token"
    path.write_text("a-token")
    path.chmod(0o640)
    with pytest.raises(TokenMissing, match="chmod 600"):
        read_token("cellar", tmp_path, {})


@pytest.mark.parametrize("token", ["two words", "line\r\nX-Injected: 1", "ümlaut", "x" * 5000])
def test_token__that_is_none__is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    with pytest.raises(TokenMissing) as caught:
        read_token("cellar", tmp_path, {"CHAINFL_PINNING_TOKEN_CELLAR": token})
    assert token not in f"{caught.value} {caught.value.hint} {caught.value.evidence}"


def test_pin_status__as_specified__is_decoded() -> None:
    found = PinStatus.decode(GOOD)
    assert (found.request_id, found.status, found.cid) == ("7", "pinning", CID)
    assert (found.delegates, found.details) == (("/dnsaddr/node.example",), "3 of 9")
    assert PinStatus.decode({**GOOD, "info": None}).details == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"requestid": None},
        {"requestid": ""},
        {"requestid": "x" * 600},
        {"requestid": "a\nb"},
        {"status": "lost"},
        {"status": ["pinned"]},
        {"created": 7},
        {"pin": []},
        {"pin": {"cid": 7}},
        {"delegates": "all"},
        {"delegates": ["/x"] * 21},
    ],
    ids=str,
)
def test_pin_status__not_as_specified__is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PinStatus.decode({**GOOD, **changes})


def test_pin_status__delegates_that_are_no_addresses__are_left_out() -> None:
    found = PinStatus.decode({**GOOD, "delegates": ["/ip4/1.2.3.4/tcp/1", "x", 7, "/a b", "/" + "x" * 600]})
    assert found.delegates == ("/ip4/1.2.3.4/tcp/1",)


def test_pin_status__details_with_control_characters__are_one_plain_line() -> None:
    found = PinStatus.decode({**GOOD, "info": {"status_details": "\x1b[31mred\r\nnext" + "x" * 1000}})
    assert found.details.isprintable()
    assert len(found.details) <= 512


def test_service__shown__says_nothing_of_its_token() -> None:
    assert "t0ken" not in repr(PinningService("cellar", "https://api.example", "t0ken"))


@pytest.mark.parametrize(
    ("token", "said", "shown"),
    [
        ("wrong", "missing or wrong token", "missing or wrong token"),
        ("0123456", "pin 01234567 is missing", "pin 01234567 is missing"),
        ("s3cret-8", "no account has s3cret-8", "no account has [token]"),
    ],
)
def test_failure__repeats_the_token__hides_what_is_long_enough_to_be_one(token: str, said: str, shown: str) -> None:
    assert str(PinningService("cellar", "https://api.example", token)._refused(said)) == f"cellar {shown}"
