"""The configuration: one TOML file, then CHAINFL_* in the environment, then flags; the later wins.

A wrong configuration reports all its problems at once, each with where it was written. A private key never stands
in a configuration file: see chainfl/chain/keys.py.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from chainfl.chain.networks import LOCAL, NETWORKS, Network, network_of_chain
from chainfl.errors import ConfigError
from chainfl.storage.cache import MIN_CACHE_BYTES
from chainfl.storage.factory import confirming_stores

FILE_NAME: Final = "chainfl.toml"
MAX_FILE_BYTES: Final = 1 << 20
ENVIRONMENT_PREFIX: Final = "CHAINFL_"

MAX_PLACES: Final = 20

LOCAL_POLL_S: Final = 0.2
"""How often everybody on a local chain looks for a new block: six times a round somebody waits for the next phase."""

LogLevel = Literal["debug", "info", "warning", "error"]

StoreKind = Literal["embedded", "kubo", "gateway"]
STORE_KINDS: Final[tuple[StoreKind, ...]] = get_args(StoreKind)

_PATH_FIELDS: Final = ("deployment", "keys_dir", "store_dir", "data_dir", "state_dir", "cache_dir")
_LIST_FIELDS: Final = ("storage", "gateways", "pinning")
_SECRET_WORDS: Final = ("private_key", "password", "mnemonic", "secret", "seed_phrase", "token", "bearer", "api_key")


def config_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for configuration (XDG)."""
    return _xdg(environment, "XDG_CONFIG_HOME", ".config")


def data_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for keys, deployments and the store (XDG)."""
    return _xdg(environment, "XDG_DATA_HOME", ".local/share")


def state_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for the agents' journals (XDG)."""
    return _xdg(environment, "XDG_STATE_HOME", ".local/state")


def _xdg(environment: Mapping[str, str], variable: str, fallback: str) -> Path:
    given = environment.get(variable)
    base = Path(given) if given and Path(given).is_absolute() else Path.home() / fallback
    return base / "chainfl"


def cache_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for what can be fetched again (XDG)."""
    return _xdg(environment, "XDG_CACHE_HOME", ".cache")


class PinningEntry(BaseModel):
    """A service that keeps content for us; its token is in CHAINFL_PINNING_TOKEN_<NAME> or in a file in keys_dir.

    name: what it is called here; endpoint: the URL above its `/pins`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    endpoint: str

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch("[a-z][a-z0-9-]{0,31}", value):
            raise ValueError("is not a name of up to 32 lower-case letters, digits and hyphens")
        return value

    @field_validator("endpoint")
    @classmethod
    def _keeps_the_token_safe(cls, value: str) -> str:
        _service_url(value)
        url = urlsplit(value)
        if url.scheme != "https" and url.hostname not in _LOOPBACK:
            raise ValueError("is not https://, and its token would be sent in the clear")
        if url.query or url.fragment:
            raise ValueError("has a query or a fragment; a token belongs into the environment or into keys_dir")
        return value


class Settings(BaseModel):
    """Everything that a command may need to know. Frozen; paths are absolute or relative to the working folder.

    rpc, chain_id and poll_interval_s come from the network when they are not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    network: str = LOCAL.name
    rpc: str | None = None
    chain_id: int | None = Field(default=None, ge=1, lt=2**53)
    deployment: Path | None = None
    key: str | None = Field(default=None, min_length=1, max_length=64)
    keys_dir: Path = Field(default_factory=lambda: data_home() / "keys")
    storage: StoreKind | tuple[StoreKind, ...] = "embedded"
    store_dir: Path = Field(default_factory=lambda: data_home() / "store")
    kubo_api: str = "/ip4/127.0.0.1/tcp/5001"
    gateways: tuple[str, ...] = Field(default=(), max_length=MAX_PLACES)
    pinning: tuple[PinningEntry, ...] = Field(default=(), max_length=MAX_PLACES)
    publish_quorum: int = Field(default=1, ge=1)
    cache_dir: Path = Field(default_factory=lambda: cache_home() / "blocks")
    cache_bytes: int = Field(default=10 << 30, ge=MIN_CACHE_BYTES)
    data_dir: Path | None = None
    state_dir: Path = Field(default_factory=state_home)
    max_gas_wei: int | None = Field(default=None, ge=0)
    token_price_wei: int | None = Field(default=None, ge=0)
    retention: Literal["all", "models"] = "all"
    poll_interval_s: float | None = Field(default=None, gt=0, le=60)
    log_level: LogLevel = "info"

    @field_validator("network")
    @classmethod
    def _known_network(cls, value: str) -> str:
        if value not in NETWORKS:
            raise ValueError(f"is not one of {', '.join(NETWORKS)}")
        return value

    @field_validator("rpc")
    @classmethod
    def _http_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        network = NETWORKS.get(info.data.get("network", ""), LOCAL)
        if value is None and network.default_rpc is None:
            raise ValueError(f"rpc is needed: {network.name} has no endpoint of its own")
        # What was given is not repeated: the URL of a hosted endpoint carries an access key.
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("is not an http:// or https:// URL")
        return value

    @field_validator("chain_id")
    @classmethod
    def _fits_the_network(cls, value: int | None, info: ValidationInfo) -> int | None:
        network = NETWORKS.get(info.data.get("network", ""), LOCAL)
        if value not in (None, network.chain_id) and not network.is_local:
            raise ValueError(f"{value} contradicts network {network.name}, which is {network.chain_id}")
        return value

    @field_validator("kubo_api")
    @classmethod
    def _address_of_a_daemon(cls, value: str) -> str:
        url = urlsplit(value)
        if not value.startswith("/") and (url.scheme not in _PORTS or not url.hostname):
            raise ValueError("is neither a multiaddress such as /ip4/127.0.0.1/tcp/5001 nor http://127.0.0.1:5001")
        return value

    @field_validator("storage", mode="before")
    @classmethod
    def _known_stores(cls, value: Any) -> Any:
        kinds = [value] if isinstance(value, str) else value
        if not isinstance(kinds, list | tuple) or not kinds or any(kind not in STORE_KINDS for kind in kinds):
            raise ValueError(f"is neither one of {', '.join(STORE_KINDS)} nor a list of them")
        if len(set(kinds)) < len(kinds):
            raise ValueError("names a store twice")
        return kinds[0] if len(kinds) == 1 else tuple(kinds)

    @field_validator("gateways")
    @classmethod
    def _gateway_urls(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for url in value:
            _service_url(url)
            if urlsplit(url).hostname == "localhost":
                raise ValueError("names localhost, where a daemon redirects to names of its own; use 127.0.0.1")
        if not value and "gateway" in _kinds(info):
            raise ValueError("gateways is needed: `storage` names the gateway store")
        return value

    @field_validator("pinning")
    @classmethod
    def _can_be_fetched_from(cls, value: tuple[PinningEntry, ...], info: ValidationInfo) -> tuple[PinningEntry, ...]:
        names = [entry.name for entry in value]
        if len(set(names)) < len(names) or set(names) & set(STORE_KINDS):
            raise ValueError("gives a service a name that another place has")
        if len({_normalised(entry.endpoint) for entry in value}) < len(value):
            raise ValueError("names one service twice: two entries have the same endpoint")
        if value and "storage" in info.data and "kubo" not in _kinds(info):
            raise ValueError('needs "kubo" in `storage`: the services fetch from that node')
        return value

    @field_validator("publish_quorum")
    @classmethod
    def _can_be_reached(cls, value: int, info: ValidationInfo) -> int:
        places = len(confirming_stores(_kinds(info))) + len(info.data.get("pinning", ()))
        if {"storage", "pinning"} <= set(info.data) and value > max(places, 1):
            raise ValueError(
                f"{value} is more than the {places} stores and services that can confirm a put; "
                "an embedded store beside another does not count, since nobody else can fetch from it"
            )
        return value

    @property
    def stores(self) -> tuple[StoreKind, ...]:
        """The kinds of `storage` in their order."""
        return (self.storage,) if isinstance(self.storage, str) else self.storage

    @property
    def named_network(self) -> Network:
        """The entry that `network` names."""
        return NETWORKS[self.network]

    @property
    def effective_chain_id(self) -> int:
        """The chain that the endpoint must serve."""
        return self.chain_id or self.named_network.chain_id

    @property
    def effective_network(self) -> Network:
        """Windows, block time and reorg depth for the chain: the named entry's, unless `chain_id` says another."""
        return self.named_network if self.chain_id is None else network_of_chain(self.chain_id)

    @property
    def effective_rpc(self) -> str:
        """Where to ask."""
        url = self.rpc or self.named_network.default_rpc
        assert url is not None
        return url

    @property
    def effective_poll_interval_s(self) -> float:
        """How often to look for a new block."""
        return self.poll_interval_s or self.effective_network.poll_interval_s

    @property
    def effective_deployment(self) -> Path:
        """The deployment file: the one given, or the network's in the user's folder."""
        return self.deployment or data_home() / "deployments" / f"{self.effective_network.name}.json"


_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_PORTS: Final = {"http": 80, "https": 443}


def _kinds(info: ValidationInfo) -> tuple[str, ...]:
    """What `storage` names, in the validator of a later field; nothing when it is wrong itself."""
    storage = info.data.get("storage", ())
    return (storage,) if isinstance(storage, str) else storage


def _normalised(endpoint: str) -> tuple[str, str, int | None, str]:
    """What two URLs of one service have in common: scheme, host and path as they are asked for, and the port."""
    url = urlsplit(endpoint)
    host = (url.hostname or "").rstrip(".")
    return url.scheme, "127.0.0.1" if host in _LOOPBACK else host, url.port or _PORTS[url.scheme], url.path.strip("/")


def _service_url(value: str) -> None:
    """Raises ValueError, which does not repeat the value: it may hold a secret."""
    url = urlsplit(value)
    if url.scheme not in _PORTS or not url.hostname:
        raise ValueError("is not an http:// or https:// URL")
    if url.username is not None or url.password is not None:
        raise ValueError("holds a user name or a password; secrets do not belong into a configuration file")


@dataclass(frozen=True, slots=True)
class _Layer:
    """Values from one place, and how to name that place in a problem."""

    values: Mapping[str, Any]
    name: str
    spell: Mapping[str, str]

    def where(self, field: str) -> str:
        return f"{self.spell.get(field, field)} ({self.name})"


def load_settings(
    *,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """The settings that hold for a command.

    config: the file of --config; else CHAINFL_CONFIG, `chainfl.toml` in `folder` (default: the working folder), or
    the user's own. flags: what was typed; None values count as not given. Paths in the file are relative to the file.
    Raises ConfigError that lists every problem.
    """
    path = find_config(config, environment, folder or Path.cwd())
    problems: list[str] = []
    layers = [
        _file_layer(path, problems) if path else _Layer({}, "", {}),
        _environment_layer(environment),
        _flag_layer(flags or {}),
    ]
    merged = {name: value for layer in layers for name, value in layer.values.items()}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems += _problems(error, layers)
        settings = None
    if problems or settings is None:
        raise ConfigError(_listing(problems), problems=problems, path=str(path) if path else None)
    return settings


def find_config(config: Path | None, environment: Mapping[str, str], folder: Path) -> Path | None:
    """The file to read, or None when there is none. Raises ConfigError when a file that was named is not there."""
    variable = environment.get("CHAINFL_CONFIG")
    named = config or (Path(variable) if variable else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"there is no configuration file {named}", path=str(named))
        return named
    usual = (folder / FILE_NAME, config_home(environment) / FILE_NAME)
    return next((path for path in usual if path.is_file()), None)


def _file_layer(path: Path, problems: list[str]) -> _Layer:
    values = _read_toml(path, problems)
    for name in [name for name in values if _is_secret(name)]:
        del values[name]
        problems.append(f"{name} ({path}): a secret does not belong into a configuration file; remove it")
    for name in _PATH_FIELDS:
        if isinstance(values.get(name), str):
            values[name] = path.parent / Path(values[name]).expanduser()
    return _Layer(values, str(path), {})


def _is_secret(name: str) -> bool:
    return name not in Settings.model_fields and any(word in name.lower() for word in _SECRET_WORDS)


def _read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            problems.append(f"{path} is too large for a configuration file")
            return {}
        return tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        problems.append(f"cannot read {path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not TOML: {error}")
    return {}


def _environment_layer(environment: Mapping[str, str]) -> _Layer:
    """CHAINFL_RPC and so on. Other CHAINFL_ variables are left alone: they may be another program's."""
    spell = {name: ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    values = {name: environment[variable] for name, variable in spell.items() if environment.get(variable)}
    return _Layer(_expanded(values), "environment", spell)


def _flag_layer(flags: Mapping[str, Any]) -> _Layer:
    spell = {name: "--" + name.replace("_", "-") for name in Settings.model_fields}
    return _Layer(_expanded({k: v for k, v in flags.items() if v is not None}), "flag", spell)


def _expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _from_text(name, value) for name, value in values.items()}


def _from_text(name: str, value: Any) -> Any:
    """A value as the environment and flags spell it: lists are separated by commas."""
    if name in _PATH_FIELDS:
        return Path(value).expanduser()
    if name not in _LIST_FIELDS or not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if name == "pinning":
        return [dict(zip(("name", "endpoint"), part.split("=", 1), strict=False)) for part in parts]
    return parts


def _problems(error: ValidationError, layers: Iterable[_Layer]) -> list[str]:
    """One line a problem, named after the place whose value won. Values are not repeated: they may be secret."""
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        field = str(item["loc"][0]) if item["loc"] else ""
        source = next((layer for layer in reversed(list(layers)) if field in layer.values), None)
        place = f"{source.where(field)}: " if source else ""
        within = "".join(f"[{part}] " if isinstance(part, int) else f"{part} " for part in item["loc"][1:])
        lines.append(place + within + _wording(item["type"], item["msg"], str(item["loc"][-1]) if within else ""))
    return lines


def _wording(kind: str, message: str, within: str) -> str:
    if within and _is_secret(within):
        return "a secret does not belong into a configuration file; remove it"
    if kind == "extra_forbidden":
        return "is not a setting"
    return message.removeprefix("Value error, ")


def _listing(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems)


def local_template(port: int, command: str) -> str:
    """The file in a local chain's folder: commands that run inside of it need no flags. command: what made it."""
    return (
        f"# Written by `{command}`. `chainfl local up` in this folder starts its chain again.\n"
        'network = "local"\n'
        f'rpc = "http://127.0.0.1:{port}"\n'
        'deployment = "deployment.json"\n'
        'storage = "embedded"\n'
        'store_dir = "store"\n'
        'state_dir = "state"\n'
        f"poll_interval_s = {LOCAL_POLL_S}\n"
    )


def commented_template(network: str = LOCAL.name, *, rpc: str | None = None, deployment: str | None = None) -> str:
    """The file that `chainfl init` writes: every setting with its default, or an example, and what it means."""

    def line(name: str, value: str | None, example: str) -> str:
        return f'{name} = "{value}"' if value is not None else f'# {name} = "{example}"'

    defaults = Settings(network=network, rpc=rpc or LOCAL.default_rpc)
    return _TEMPLATE.format(
        networks=", ".join(NETWORKS),
        network=network,
        rpc=line("rpc", rpc, LOCAL.default_rpc or ""),
        deployment=line("deployment", deployment, _from_home(defaults.effective_deployment)),
        **{name: _from_home(getattr(defaults, name)) for name in ("keys_dir", "store_dir", "cache_dir", "state_dir")},
    )


def _from_home(path: Path) -> str:
    """As a person would write it, and as the file reads it."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else path.as_posix()


_TEMPLATE: Final = """\
# chainfl: every setting, with its default; where there is none, with an example.
# Environment variables (CHAINFL_RPC …) and flags override this file. Paths are relative to this file. Private keys and
# passwords do not belong here: use `chainfl keys`, or CHAINFL_PRIVATE_KEY and CHAINFL_KEY_PASSWORD for automation.

# Which chain: {networks}.
network = "{network}"

# The JSON-RPC endpoint. The local network has one by itself; every other network needs yours.
{rpc}

# Only for a chain that has no name above: the id that the endpoint must report.
# chain_id = 31337

# The file that you got from whoever deployed; by default where `chainfl deploy` writes its own.
{deployment}

# The key to sign with, by name or address; not needed while there is only one.
# key = "worker"
# keys_dir = "{keys_dir}"

# Where models and updates are: "embedded" (a folder), "kubo" (a running IPFS daemon), "gateway" (IPFS gateways, only
# for reading), or several: ["kubo", "gateway"] reads in that order and writes to all that write.
# In the environment and in flags, lists are separated by commas: "kubo,gateway" in CHAINFL_STORAGE.
storage = "embedded"
# store_dir = "{store_dir}"
# kubo_api = "/ip4/127.0.0.1/tcp/5001"      # or "http://127.0.0.1:5001"

# The gateways, none of which is trusted, and the folder and size of the cache of what they gave.
# gateways = ["https://ipfs.io", "https://dweb.link"]
# cache_dir = "{cache_dir}"
# cache_bytes = 10737418240

# Services that keep what you publish (IPFS Pinning Service API); they fetch it from your Kubo daemon. Their tokens do
# not belong here: set CHAINFL_PINNING_TOKEN_CELLAR, or write keys_dir/pinning-cellar.token and `chmod 600` it.
# In CHAINFL_PINNING an entry is its name, an equals sign and its endpoint.
# pinning = [{{ name = "cellar", endpoint = "https://api.cellar.example/psa" }}]

# How many stores and services must confirm what you publish before it counts as published. The embedded store counts
# only where no other store writes: nobody else can fetch from it.
# publish_quorum = 1

# Your own training data (MNIST's or CIFAR-10's files).
# data_dir = "data"

# What an agent must remember: salts before their commitments, updates before their upload. Keep it.
# state_dir = "{state_dir}"

# An agent stops before its gas costs more than this, in native wei.
# max_gas_wei = 50000000000000000

# What a whole token is worth to you, in native wei: an agent weighs by it what it need not do, such as answering for
# a fee. Without it, all of that pays.
# token_price_wei = 100000000000000

# What an agent keeps of what it published: "all", or "models": its updates go once their round is past dispute. The
# rounds can then no longer be computed again from this store. --retention of the run commands chooses it for one task.
# retention = "all"

# Seconds between two looks for a new block; by default half a block time, at most 1.
# poll_interval_s = 0.5

# debug, info, warning or error.
log_level = "info"
"""
