"""The configuration: precedence, paths, and every problem at once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chainfl.config import LOCAL_POLL_S, commented_template, load_settings, local_template
from chainfl.errors import ConfigError
from chainfl.storage.cache import MIN_CACHE_BYTES

ACCESS_KEY = "0123456789abcdef"


def write(folder: Path, text: str) -> Path:
    path = folder / "chainfl.toml"
    path.write_text(text, encoding="utf-8")
    return path


def uncommented(text: str) -> str:
    return "\n".join(line.removeprefix("# ") for line in text.splitlines() if "=" in line)


def problems(**arguments: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(**arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 10
    return list(caught.value.evidence["problems"])


def test_settings__nothing_given__are_the_local_network(tmp_path: Path):
    settings = load_settings(environment={"XDG_CONFIG_HOME": str(tmp_path)}, folder=tmp_path)
    assert settings.effective_rpc == "http://127.0.0.1:8545"
    assert settings.effective_chain_id == 31_337
    assert settings.effective_poll_interval_s == 0.5
    assert settings.storage == "embedded"
    assert settings.effective_deployment.name == "local.json"


def test_settings__file_environment_flags__later_wins(tmp_path: Path):
    write(tmp_path, 'log_level = "debug"\nkey = "file"\nstorage = "kubo"')
    environment = {"CHAINFL_KEY": "environment", "CHAINFL_STORAGE": "embedded", "CHAINFL_MAX_GAS_WEI": "7"}
    settings = load_settings(environment=environment, flags={"key": "flag", "storage": None}, folder=tmp_path)
    assert (settings.log_level, settings.key, settings.storage, settings.max_gas_wei) == (
        "debug",
        "flag",
        "embedded",
        7,
    )


def test_paths__in_the_file__are_relative_to_the_file(tmp_path: Path):
    path = write(tmp_path, 'store_dir = "store"\nkeys_dir = "~/keys"')
    settings = load_settings(config=path, environment={}, flags={"data_dir": "data"})
    assert settings.store_dir == tmp_path / "store"
    assert settings.keys_dir == Path.home() / "keys"
    assert settings.data_dir == Path("data")


def test_problems__several__are_all_reported_with_their_place(tmp_path: Path):
    write(tmp_path, 'network = "mainnet"\nstorage = "s3"\ncolour = 1\nprivate_key = "0x12"')
    found = problems(
        environment={"CHAINFL_CHAIN_ID": "many"}, flags={"log_level": "loud", "rpc": "ftp://x"}, folder=tmp_path
    )
    assert len(found) == 7
    text = "\n".join(found)
    for part in (
        "network (",
        "storage (",
        "colour (",
        "private_key (",
        "CHAINFL_CHAIN_ID (",
        "--log-level (",
        "--rpc (",
    ):
        assert part in text
    assert "0x12" not in text


def test_rpc__missing_for_a_public_network__is_reported_beside_other_problems(tmp_path: Path):
    found = problems(environment={}, flags={"network": "sepolia", "storage": "s3"}, folder=tmp_path)
    assert any("rpc is needed" in problem for problem in found)
    assert len(found) == 2


def test_rpc__malformed__is_not_repeated(tmp_path: Path):
    (found,) = problems(environment={}, flags={"rpc": f"wss://host/{ACCESS_KEY}"}, folder=tmp_path)
    assert ACCESS_KEY not in found


def test_chain_id__contradicts_the_named_network__is_a_problem(tmp_path: Path):
    flags = {"network": "sepolia", "rpc": "https://host", "chain_id": 1}
    (found,) = problems(environment={}, flags=flags, folder=tmp_path)
    assert "11155111" in found


def test_chain_id__of_an_unnamed_chain__is_taken_with_cautious_values(tmp_path: Path):
    settings = load_settings(environment={}, flags={"chain_id": 4_242, "rpc": "https://host"}, folder=tmp_path)
    assert settings.effective_chain_id == 4_242
    assert settings.effective_network.windows.challenge == 900


@pytest.mark.parametrize("text", ["network = ", 'network = "local', "\x00", "[[["])
def test_file__not_toml__says_so(tmp_path: Path, text: str):
    (found,) = problems(config=write(tmp_path, text), environment={})
    assert "not TOML" in found


def test_file__not_utf8__says_so(tmp_path: Path):
    path = tmp_path / "chainfl.toml"
    path.write_bytes(b'key = "\xff"')
    (found,) = problems(config=path, environment={})
    assert "not TOML" in found


def test_file__named_but_missing__is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_settings(config=tmp_path / "no.toml", environment={})
    with pytest.raises(ConfigError):
        load_settings(environment={"CHAINFL_CONFIG": str(tmp_path / "no.toml")}, folder=tmp_path)


def test_storage__several_from_file_and_environment__keep_their_order(tmp_path: Path):
    write(tmp_path, 'storage = ["gateway", "kubo"]\ngateways = ["https://one.example"]\ncache_dir = "cache"')
    settings = load_settings(environment={}, folder=tmp_path)
    assert settings.stores == settings.storage == ("gateway", "kubo")
    assert settings.cache_dir == tmp_path / "cache"
    environment = {
        "CHAINFL_STORAGE": "kubo, gateway",
        "CHAINFL_GATEWAYS": "https://one.example,http://two.example",
        "CHAINFL_PINNING": "cellar=https://api.example/psa, attic=https://attic.example",
        "CHAINFL_PUBLISH_QUORUM": "3",
    }
    settings = load_settings(environment=environment, folder=tmp_path)
    assert settings.stores == ("kubo", "gateway")
    assert settings.gateways == ("https://one.example", "http://two.example")
    assert [(entry.name, entry.endpoint) for entry in settings.pinning] == [
        ("cellar", "https://api.example/psa"),
        ("attic", "https://attic.example"),
    ]
    assert settings.publish_quorum == 3


def test_storage__one_in_a_list__is_that_one(tmp_path: Path):
    settings = load_settings(environment={}, folder=tmp_path, flags={"storage": ["kubo"]})
    assert (settings.storage, settings.stores) == ("kubo", ("kubo",))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"storage": "embedded,embedded"}, "twice"),
        ({"storage": ""}, "nor a list"),
        ({"storage": []}, "nor a list"),
        ({"storage": 7}, "nor a list"),
        ({"storage": "gateway"}, "gateways is needed"),
        ({"gateways": "ipfs.io"}, "not an http"),
        ({"gateways": "https://me:secret-word@ipfs.io"}, "password"),
        ({"storage": "kubo", "pinning": "cellar=http://api.example"}, "in the clear"),
        ({"storage": "kubo", "pinning": "cellar=https://api.example?key=secret-word"}, "query"),
        ({"storage": "kubo", "pinning": "Cellar Nine=https://api.example"}, "name"),
        ({"storage": "kubo", "pinning": "kubo=https://api.example"}, "another place"),
        ({"storage": "kubo", "pinning": "a=https://api.example,a=https://b.example"}, "another place"),
        ({"storage": "kubo", "pinning": "cellar"}, "endpoint"),
        ({"pinning": "cellar=https://api.example"}, "kubo"),
        ({"publish_quorum": 2}, "more than the 1"),
        ({"publish_quorum": 0}, "greater"),
        ({"storage": "kubo,gateway", "gateways": "https://a.example", "publish_quorum": 2}, "more than the 1"),
        ({"cache_bytes": 1}, "--cache-bytes"),
        ({"cache_bytes": MIN_CACHE_BYTES - 1}, "greater"),
        ({"gateways": "https://ipfs.io,http://localhost:8080"}, "use 127.0.0.1"),
        ({"kubo_api": "127.0.0.1:5001"}, "neither a multiaddress"),
        ({"kubo_api": "ftp://127.0.0.1:5001"}, "neither a multiaddress"),
        ({"storage": "kubo", "pinning": "a=https://api.example/psa,b=https://API.example:443/psa/"}, "twice"),
        ({"storage": "kubo", "pinning": "a=http://localhost:99,b=http://127.0.0.1:99"}, "twice"),
        ({"storage": "embedded,kubo", "publish_quorum": 2}, "embedded store beside another does not count"),
        (
            {"storage": "embedded,kubo", "pinning": "cellar=https://api.example", "publish_quorum": 3},
            "more than the 2",
        ),
    ],
)
def test_storage__cannot_be__is_one_problem_without_its_secrets(tmp_path: Path, flags: dict[str, object], word: str):
    (found,) = problems(environment={}, flags=flags, folder=tmp_path)
    assert word in found
    assert "secret-word" not in found


def test_pinning__two_paths_at_one_host__are_two_services(tmp_path: Path):
    pinning = "a=https://api.example/one,b=https://api.example/two"
    flags = {"storage": "kubo", "pinning": pinning, "publish_quorum": 3}
    assert load_settings(environment={}, flags=flags, folder=tmp_path).publish_quorum == 3


@pytest.mark.parametrize("api", ["http://127.0.0.1:5001", "https://kubo.example", "/dns4/kubo/tcp/5001"])
def test_kubo_api__url_or_multiaddress__is_taken_as_it_is(tmp_path: Path, api: str):
    assert load_settings(environment={}, flags={"kubo_api": api}, folder=tmp_path).kubo_api == api


def test_pinning__on_loopback__needs_no_tls(tmp_path: Path):
    flags = {"storage": "kubo", "pinning": "cellar=http://127.0.0.1:8080/psa"}
    assert load_settings(environment={}, flags=flags, folder=tmp_path).pinning[0].name == "cellar"


def test_pinning__token_in_the_file__is_refused_and_not_repeated(tmp_path: Path):
    entry = f'{{ name = "cellar", endpoint = "https://api.example", token = "{ACCESS_KEY}" }}'
    write(tmp_path, f'storage = "kubo"\npinning = [{entry}]\nbearer = "{ACCESS_KEY}"\npinning_token = "{ACCESS_KEY}"')
    found = problems(environment={}, folder=tmp_path)
    assert len(found) == 3
    assert all("secret" in problem for problem in found)
    assert ACCESS_KEY not in "".join(found)


def test_template__as_written__loads_and_names_every_setting(tmp_path: Path):
    from chainfl.config import Settings

    text = commented_template("sepolia", rpc="https://host", deployment="d.json")
    settings = load_settings(config=write(tmp_path, text), environment={})
    assert (settings.network, settings.deployment) == ("sepolia", tmp_path / "d.json")
    assert set(tomllib.loads(uncommented(commented_template()))) == set(Settings.model_fields)


@pytest.mark.parametrize("network", ["local", "hoodi"])
def test_template__its_commented_paths__are_the_defaults(tmp_path: Path, network: str):
    written = tomllib.loads(uncommented(commented_template(network)))
    settings = load_settings(config=write(tmp_path, f'network = "{network}"\nrpc = "https://host"'), environment={})
    for name in ("keys_dir", "store_dir", "cache_dir", "state_dir"):
        assert Path(written[name]).expanduser() == getattr(settings, name)
    assert Path(written["deployment"]).expanduser() == settings.effective_deployment


def test_template__home_elsewhere__names_where_deploy_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert '# deployment = "~/.local/share/chainfl/deployments/local.json"' in commented_template()
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert '# deployment = "/data/chainfl/deployments/local.json"' in commented_template()


def test_local_template__loaded__points_at_the_folder_beside_it(tmp_path: Path):
    settings = load_settings(config=write(tmp_path, local_template(4711, "chainfl demo")), environment={})
    assert (settings.effective_rpc, settings.poll_interval_s) == ("http://127.0.0.1:4711", LOCAL_POLL_S)
    assert settings.store_dir == tmp_path / "store"
    assert settings.state_dir == tmp_path / "state"
    assert settings.deployment == tmp_path / "deployment.json"


def test_import__of_the_configuration__brings_neither_web3_nor_torch():
    code = "import chainfl.config, sys; print([m for m in ('web3', 'eth_abi', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
