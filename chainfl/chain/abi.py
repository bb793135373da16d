"""The contracts' ABI as the compiler wrote it: calls, results, events and errors, all by component name.

Structs become frozen dataclasses whose fields are the ABI's component names in snake case. The mapping is strict:
an unknown or a missing component is an error, so a Python type can never drift from the contract unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from functools import cache, cached_property, lru_cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder
from eth_abi.encoding import TextStringEncoder
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.registry import BaseEquals, registry
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from chainfl.chain.artifacts import CONTRACTS, LIBRARIES, load_artifact
from chainfl.errors import ChainError
from chainfl.types import Address

T = TypeVar("T")
Component = Mapping[str, Any]


def _codec() -> ABICodec:
    """The standard codec, but a stranger's string that is not UTF-8 is shown with marks instead of blocking a read."""
    own = registry.copy()  # type: ignore[no-untyped-call]
    own.unregister("string")
    text = BaseEquals("string")  # type: ignore[no-untyped-call]
    own.register(text, TextStringEncoder, StringDecoder("replace"), label="string")  # type: ignore[no-untyped-call]
    return ABICodec(own)


_CODEC = _codec()


@lru_cache(maxsize=4096)
def checksum(address: str) -> Address:
    """The checksummed form of an address that the codec or the endpoint gave in lower case."""
    return Address(to_checksum_address(address))


@cache
def snake_case(name: str) -> str:
    """`numParams` → `num_params`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def canonical_type(component: Component) -> str:
    """The ABI type with structs written out, as selectors and the codec need it: `(bytes32,uint8)[]`."""
    kind = str(component["type"])
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(canonical_type(part) for part in component["components"])
    return f"({inner}){kind.removeprefix('tuple')}"


def signature(entry: Component) -> str:
    """`name(type,type)` of a function, event or error."""
    return f"{entry['name']}({','.join(canonical_type(part) for part in entry['inputs'])})"


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def check_struct(cls: type, components: Sequence[Component]) -> None:
    """Raises ChainError unless the dataclass has exactly the ABI's components."""
    expected = [snake_case(part["name"]) for part in components]
    actual = [field.name for field in fields(cls)]
    if sorted(expected) != sorted(actual):
        raise ChainError(
            f"{cls.__name__} and the ABI differ in {sorted(set(expected) ^ set(actual))}", type=cls.__name__
        )


_checked: set[tuple[type, tuple[str, ...]]] = set()


def _check_struct_once(cls: type, components: Sequence[Component]) -> None:
    key = (cls, tuple(part["name"] for part in components))
    if key not in _checked:
        check_struct(cls, components)
        _checked.add(key)


def from_abi(value: Any, component: Component, target: Any = Any) -> Any:
    """A decoded ABI value as what `target` names: a dataclass, an enum, a tuple of these, or a plain value.

    Raises ChainError when a struct's components and the dataclass's fields differ, or an enum has no such member.
    """
    kind = str(component["type"])
    if kind.endswith("]"):
        part = {**component, "type": kind[: kind.rindex("[")]}
        inner = get_args(target)[0] if get_origin(target) is tuple else Any
        return tuple(from_abi(item, part, inner) for item in value)
    if kind == "tuple":
        return _struct_from_abi(value, component["components"], target)
    if kind == "address":
        return checksum(value)
    if isinstance(target, type) and issubclass(target, IntEnum):
        return _enum(target, value)
    return value


def _struct_from_abi(values: Sequence[Any], components: Sequence[Component], target: Any) -> Any:
    if not is_dataclass(target):
        return {snake_case(part["name"]): from_abi(value, part) for part, value in zip(components, values, strict=True)}
    cls = cast(type, target)
    _check_struct_once(cls, components)
    hints = _hints(cls)
    named = ((snake_case(part["name"]), part, value) for part, value in zip(components, values, strict=True))
    return cls(**{name: from_abi(value, part, hints[name]) for name, part, value in named})


def _enum(target: type[IntEnum], value: int) -> IntEnum:
    try:
        return target(value)
    except ValueError as error:
        raise ChainError(f"{value} is no {target.__name__}", value=value) from error


def to_abi(value: Any, component: Component) -> Any:
    """The inverse of `from_abi`: dataclasses become tuples in the ABI's order, by name."""
    kind = str(component["type"])
    if kind.endswith("]"):
        part = {**component, "type": kind[: kind.rindex("[")]}
        return [to_abi(item, part) for item in value]
    if kind == "tuple":
        _check_struct_once(type(value), component["components"])
        return tuple(to_abi(getattr(value, snake_case(part["name"])), part) for part in component["components"])
    return value


@dataclass(frozen=True, eq=False)
class Function:
    """One function of a contract."""

    name: str
    inputs: tuple[Component, ...]
    outputs: tuple[Component, ...]

    @cached_property
    def selector(self) -> bytes:
        """The first four bytes of its calldata."""
        return keccak(text=signature({"name": self.name, "inputs": self.inputs}))[:4]

    @cached_property
    def _input_types(self) -> list[str]:
        return [canonical_type(part) for part in self.inputs]

    @cached_property
    def _output_types(self) -> list[str]:
        return [canonical_type(part) for part in self.outputs]

    def encode(self, *arguments: Any) -> bytes:
        """Calldata. Raises ChainError when an argument does not fit its ABI type."""
        return self.selector + encode_arguments(self.name, self.inputs, self._input_types, arguments)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The raw results of a call, one for each output. Raises ChainError when the bytes are something else."""
        try:
            return tuple(_CODEC.decode(self._output_types, data))
        except (DecodingError, OverflowError) as error:
            raise ChainError(f"{self.name} answered {len(data)} bytes that are not its result") from error

    def result(self, data: bytes, target: Any = Any) -> Any:
        """The single result of a call as `target`; several results as the fields of a dataclass or a dict.

        A dataclass for bytes that were read lately is the same object again: it is frozen.
        """
        if isinstance(target, type) and is_dataclass(target):
            return _known_result(self, data, target)
        return self._result(data, target)

    def _result(self, data: bytes, target: Any) -> Any:
        values = self.decode(data)
        if len(self.outputs) == 1:
            return from_abi(values[0], self.outputs[0], target)
        return _struct_from_abi(values, self.outputs, target)


@lru_cache(maxsize=64)
def _known_result(function: Function, data: bytes, target: Any) -> Any:
    # An agent that waits reads the same round at every block, and decoding it is most of what that costs.
    return function._result(data, target)


def encode_arguments(name: str, inputs: Sequence[Component], types: Sequence[str], arguments: Sequence[Any]) -> bytes:
    """ABI-encodes arguments, dataclasses included. Raises ChainError when one does not fit its type."""
    if len(arguments) != len(inputs):
        raise ChainError(f"{name} takes {len(inputs)} arguments, not {len(arguments)}")
    try:
        return _CODEC.encode(types, [to_abi(value, part) for value, part in zip(arguments, inputs, strict=True)])
    except (EncodingError, OverflowError) as error:
        raise ChainError(f"an argument of {name} does not fit its type: {error}") from error


@dataclass(frozen=True, eq=False)
class EventAbi:
    """One event of a contract."""

    name: str
    inputs: tuple[Component, ...]

    @cached_property
    def topic(self) -> bytes:
        """The first topic of its logs."""
        return keccak(text=signature({"name": self.name, "inputs": self.inputs}))

    def topics(self, **indexed: int | str) -> list[str | None]:
        """A topic filter for given values of the indexed inputs (integers or addresses)."""
        wanted: list[str | None] = ["0x" + self.topic.hex()]
        for part in self.inputs:
            if part["indexed"]:
                value = indexed.pop(snake_case(part["name"]), None)
                wanted.append(None if value is None else _topic(value))
        assert not indexed, f"{self.name} has no indexed {sorted(indexed)}"
        return wanted

    def decode(self, topics: Sequence[bytes], data: bytes, **targets: type) -> dict[str, Any]:
        """The event's values by name in snake case. Raises ChainError when the log does not fit the event.

        targets: by name, the dataclass that a struct becomes instead of a dict.
        """
        indexed = [part for part in self.inputs if part["indexed"]]
        plain = [part for part in self.inputs if not part["indexed"]]
        if len(topics) != len(indexed) + 1 or topics[0] != self.topic:
            raise ChainError(f"a log is not the event {self.name}")
        try:
            found = [_CODEC.decode([part["type"]], topic)[0] for part, topic in zip(indexed, topics[1:], strict=True)]
            values = _CODEC.decode([canonical_type(part) for part in plain], data)
        except (DecodingError, OverflowError) as error:
            raise ChainError(f"a log does not decode as the event {self.name}") from error
        named = [*zip(indexed, found, strict=True), *zip(plain, values, strict=True)]
        pairs = [(snake_case(part["name"]), part, value) for part, value in named]
        return {name: from_abi(value, part, targets.get(name, Any)) for name, part, value in pairs}


def _topic(value: int | str) -> str:
    number = int(value, 16) if isinstance(value, str) else int(value)
    return f"0x{number:064x}"


@dataclass(frozen=True, eq=False)
class ErrorAbi:
    """One custom error."""

    name: str
    inputs: tuple[Component, ...]

    @cached_property
    def selector(self) -> bytes:
        """The first four bytes of the revert data."""
        return keccak(text=signature({"name": self.name, "inputs": self.inputs}))[:4]

    def decode(self, data: bytes) -> dict[str, Any]:
        """The error's arguments by name in snake case, from the bytes after the selector. Raises ChainError."""
        try:
            values = _CODEC.decode([canonical_type(part) for part in self.inputs], data)
        except (DecodingError, OverflowError) as error:
            raise ChainError(f"revert data do not decode as {self.name}") from error
        return {
            snake_case(part["name"] or f"argument{index}"): from_abi(value, part)
            for index, (part, value) in enumerate(zip(self.inputs, values, strict=True))
        }


@dataclass(frozen=True, eq=False)
class ContractAbi:
    """A contract's functions by name, events by topic and name, errors by selector, and its constructor's inputs."""

    name: str
    functions: Mapping[str, Function]
    events: Mapping[str, EventAbi]
    errors: Mapping[bytes, ErrorAbi]
    constructor: tuple[Component, ...]

    @cached_property
    def events_by_topic(self) -> Mapping[bytes, EventAbi]:
        """The event that a log's first topic names."""
        return {event.topic: event for event in self.events.values()}

    @cached_property
    def functions_by_selector(self) -> Mapping[bytes, Function]:
        """The function that calldata's first four bytes name."""
        return {function.selector: function for function in self.functions.values()}

    def encode_constructor(self, *arguments: Any) -> bytes:
        """Constructor arguments, as they follow the creation code."""
        types = [canonical_type(part) for part in self.constructor]
        return encode_arguments(f"{self.name}'s constructor", self.constructor, types, arguments)


def parse_abi(name: str, entries: Sequence[Component]) -> ContractAbi:
    """The ABI of one contract from the compiler's list."""

    def of(kind: str) -> list[Component]:
        return [entry for entry in entries if entry["type"] == kind]

    functions = [Function(e["name"], tuple(e["inputs"]), tuple(e["outputs"])) for e in of("function")]
    events = [EventAbi(e["name"], tuple(e["inputs"])) for e in of("event")]
    errors = [ErrorAbi(e["name"], tuple(e["inputs"])) for e in of("error")]
    constructor = next((tuple(e["inputs"]) for e in of("constructor")), ())
    return ContractAbi(
        name=name,
        functions={function.name: function for function in functions},
        events={event.name: event for event in events},
        errors={error.selector: error for error in errors},
        constructor=constructor,
    )


@cache
def contract_abi(name: str) -> ContractAbi:
    """The parsed ABI of one of our contracts, from the artifacts in the package."""
    return parse_abi(name, load_artifact(name).abi)


@cache
def known_errors() -> Mapping[bytes, ErrorAbi]:
    """Every custom error of every contract of ours, OpenZeppelin's included, by selector."""
    return {selector: error for name in CONTRACTS + LIBRARIES for selector, error in contract_abi(name).errors.items()}
