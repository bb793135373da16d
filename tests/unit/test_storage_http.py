"""The client's rules: what is a URL, where a redirect may lead, which address is global, what a deadline is."""

from __future__ import annotations

import ssl

import pytest
import urllib3.exceptions

from chainfl.errors import ConfigError, ServiceUnreachable
from chainfl.storage import http
from chainfl.storage.http import Deadline, HttpClient, Limits, is_global_address, next_hop, parse_url


@pytest.mark.parametrize(
    ("text", "origin", "whole"),
    [
        ("http://example.org", "http://example.org", "http://example.org/"),
        ("HTTPS://Example.org:443/a?b=c#d", "https://example.org", "https://example.org/a?b=c"),
        ("http://127.0.0.1:8080/ipfs", "http://127.0.0.1:8080", "http://127.0.0.1:8080/ipfs"),
        ("https://[::1]:80/", "https://[::1]:80", "https://[::1]:80/"),
        ("http://example.org:80?q", "http://example.org", "http://example.org/?q"),
    ],
)
def test_parse_url__address__has_an_origin_and_one_spelling(text: str, origin: str, whole: str) -> None:
    url = parse_url(text)
    assert (url.origin, url.text) == (origin, whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://example.org:99999",
        "http://example.org:port",
        "http://[::1",
        "http://user:secret@example.org",
        "http://secret@example.org",
        "http://example.org/a b",
        "http://example.org/\r\nHost: other",
        "http://exämple.org",
        "/ip4/127.0.0.1/tcp/5001",
    ],
)
def test_parse_url__anything_else__is_a_config_error_that_shows_no_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_url__shown__hides_path_and_query() -> None:
    assert "secret" not in repr(parse_url("https://example.org/secret?token=secret"))


@pytest.mark.parametrize(
    ("location", "hop"),
    [
        ("/other", "https://example.org/other"),
        ("other?x=1", "https://example.org/ipfs/other?x=1"),
        ("//another.org/x", "https://another.org/x"),
        ("https://another.org:8443/x", "https://another.org:8443/x"),
    ],
)
def test_next_hop__https__leads_to_https(location: str, hop: str) -> None:
    assert next_hop(parse_url("https://example.org/ipfs/cid"), location).text == hop


@pytest.mark.parametrize(
    "location", ["http://example.org/", "ftp://example.org/", "javascript:alert(1)", "http://[", "https://a@b.org/"]
)
def test_next_hop__https__leads_nowhere_else(location: str) -> None:
    with pytest.raises(ServiceUnreachable):
        next_hop(parse_url("https://example.org/ipfs/cid"), location)


def test_next_hop__http__may_lead_to_https() -> None:
    assert next_hop(parse_url("http://example.org/a"), "https://example.org/a").scheme == "https"


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_is_global_address__the_internet__is(address: str) -> None:
    assert is_global_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "2001:0:1:1:1:1:f5ff:fffe",
        "2001:db8::1",
        "not an address",
        "",
    ],
)
def test_is_global_address__private_in_any_disguise__is_not(address: str) -> None:
    assert not is_global_address(address)


def test_deadline__time_left__bounds_each_wait_and_then_ends_it() -> None:
    deadline = Deadline(Limits(total_s=1000))
    assert deadline.wait_s(5) == 5
    assert 999 < deadline.wait_s(5000) <= 1000
    deadline.renew(0)
    with pytest.raises(TimeoutError):
        deadline.wait_s(5)
    deadline.renew(10)
    assert deadline.wait_s(5) == 5


def test_deadline__cancelled__ends_and_is_not_renewed() -> None:
    deadline = Deadline(Limits())
    deadline.cancel()
    deadline.renew(1000)
    with pytest.raises(TimeoutError):
        deadline.wait_s(5)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("x"), "its time is over"),
        (urllib3.exceptions.LocationValueError("http://a/?token=secret"), "LocationValueError"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
        (urllib3.exceptions.IncompleteRead(1, 2), "its answer was cut"),
        (ConnectionResetError("GET /?token=secret"), "it hung up"),
        (urllib3.exceptions.ProtocolError("GET /?token=secret"), "ProtocolError"),
    ],
)
def test_why__an_error_below__is_told_without_its_text(error: Exception, why: str) -> None:
    assert http._why(error) == why


def test_why__wrapped_by_the_library__is_the_cause() -> None:
    error = urllib3.exceptions.ProtocolError("Connection aborted.")
    error.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert http._why(error) == "Connection reset by peer"


def test_client__configured_address_that_is_none__is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        HttpClient(["example.org"])


def test_get__url_that_is_none__is_a_config_error_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError), HttpClient().get("http://a b", max_bytes=1):
        pytest.fail("nothing to get")
