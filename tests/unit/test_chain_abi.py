"""The Python types against the compiled ABI, and decoding what a contract should never send."""

from __future__ import annotations

import re
from dataclasses import fields
from enum import IntEnum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.chain import records
from chainfl.chain.abi import check_struct, contract_abi, from_abi, known_errors, snake_case, to_abi
from chainfl.chain.artifacts import CONTRACTS, LIBRARIES, load_artifact
from chainfl.errors import ChainError
from chainfl.tasks import state
from chainfl.types import Address

TYPES_SOL = Path(__file__).parents[2] / "contracts" / "src" / "interfaces" / "Types.sol"

STRUCTS = {
    "Cid": state.CidOnChain,
    "Bounds": state.Bounds,
    "Windows": state.Windows,
    "Economics": state.Economics,
    "Format": state.Format,
    "Draw": state.Draw,
    "TaskParams": state.TaskParams,
    "TaskView": state.TaskView,
    "RoundView": state.RoundView,
    "Member": state.Member,
    "Claim": state.Claim,
    "Game": state.Game,
    "Demand": state.Demand,
    "IModelRegistry.Model": records.Model,
    "IModelRegistry.Line": records.Line,
    "IStakeVault.Escrow": records.Escrow,
}
MEMBER = contract_abi("TaskCoordinator").functions["memberOf"]
PHASE = contract_abi("TaskCoordinator").functions["phaseOf"]


def structs_of_the_abi() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}

    def visit(part: dict[str, Any]) -> None:
        name = part.get("internalType", "").removeprefix("struct ").rstrip("[]")
        if part["type"].startswith("tuple"):
            found[name] = part["components"]
        for inner in part.get("components", []):
            visit(inner)

    for contract in CONTRACTS:
        for entry in load_artifact(contract).abi:
            for part in [*entry.get("inputs", []), *entry.get("outputs", [])]:
                visit(part)
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_dataclass__each_struct__has_exactly_the_abi_components(name: str):
    check_struct(STRUCTS[name], structs_of_the_abi()[name])


def test_structs__of_the_abi__all_have_a_dataclass():
    assert set(structs_of_the_abi()) - {"ModelResult"} == set(STRUCTS)


def test_totals__of_the_vault__has_its_dataclass():
    check_struct(records.VaultTotals, contract_abi("StakeVault").functions["totals"].outputs)


@pytest.mark.parametrize(
    "enum", [state.Role, state.Phase, state.Outcome, state.Verdict, state.Rule, state.Target, state.DrawBy]
)
def test_enum__each__has_the_members_of_types_sol_in_order(enum: type[IntEnum]):
    body = re.search(rf"enum {enum.__name__} \{{(.*?)\}}", TYPES_SOL.read_text(encoding="utf-8"), re.DOTALL)
    assert body is not None
    members = [snake_case(name.strip()).upper() for name in body[1].split(",")]
    assert [member.name for member in enum] == members


@pytest.mark.parametrize("contract", CONTRACTS)
def test_artifact__each_contract__has_code_compiler_and_no_path(contract: str):
    artifact = load_artifact(contract)
    assert artifact.compiler.startswith("solc 0.8.30")
    assert artifact.settings["evmVersion"] == "cancun"
    assert len(artifact.bytecode) > 1_000


def test_linked__all_libraries__leaves_no_hole():
    artifact = load_artifact("TaskCoordinator")
    address = "0x" + "ab" * 20
    code = artifact.linked(dict.fromkeys(LIBRARIES, address))
    for starts in artifact.links.values():
        assert all(code[start : start + 20] == bytes([0xAB]) * 20 for start in starts)


def test_libraries__in_their_order__come_after_what_they_link():
    for place, name in enumerate(LIBRARIES):
        assert set(load_artifact(name).links) <= set(LIBRARIES[:place]), name
    linked = {library for name in (*LIBRARIES, "TaskCoordinator") for library in load_artifact(name).links}
    assert linked == set(LIBRARIES)


def test_check_struct__missing_or_unknown_component__raises():
    components = list(MEMBER.outputs[0]["components"])
    with pytest.raises(ChainError, match="stake"):
        check_struct(state.Member, components[1:])
    with pytest.raises(ChainError, match="extra"):
        check_struct(state.Member, [*components, {"name": "extra", "type": "uint8"}])


def test_struct__encoded_and_decoded__is_the_same():
    create = contract_abi("TaskCoordinator").functions["createTask"]
    hints = get_type_hints(state.TaskParams)
    values = {field.name: _sample(hints[field.name]) for field in fields(state.TaskParams)}
    params = state.TaskParams(**values)
    assert from_abi(to_abi(params, create.inputs[0]), create.inputs[0], state.TaskParams) == params
    assert create.encode(params)[:4] == create.selector


def _sample(hint: Any) -> Any:
    if hasattr(hint, "__dataclass_fields__"):
        return hint(**{name: _sample(inner) for name, inner in get_type_hints(hint).items()})
    base = getattr(hint, "__supertype__", hint)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return hint(1)
    if hint == tuple[Address, ...]:
        return (Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),)
    return {int: 3, str: "é", bytes: bytes(range(32))}[base]


def test_encode__value_too_wide_or_too_many__raises():
    enrol = contract_abi("TaskCoordinator").functions["enrol"]
    with pytest.raises(ChainError, match="does not fit"):
        enrol.encode(1, 0, 2**96)
    with pytest.raises(ChainError, match="takes 3 arguments"):
        enrol.encode(1, 0)


def test_decode__unknown_enum_member__raises():
    component = {"type": "uint8", "internalType": "enum Phase"}
    assert from_abi(3, component, state.Phase) is state.Phase.REVEAL
    with pytest.raises(ChainError, match="no Phase"):
        from_abi(len(state.Phase), component, state.Phase)


@given(st.binary(max_size=400))
def test_decode__any_bytes__is_a_value_or_a_chain_error(data: bytes):
    for function, target in ((MEMBER, state.Member), (contract_abi("ModelRegistry").functions["lineOf"], records.Line)):
        try:
            assert isinstance(function.result(data, target), target)
        except ChainError:
            continue


def test_result__bytes_that_were_read_before__is_the_same_object_and_other_bytes_are_not():
    words = {number: bytes(31) + bytes([number]) for number in (0, 1)}
    num_words = len(MEMBER.outputs[0]["components"])
    first, other = (b"".join([words[number], *[words[0]] * (num_words - 1)]) for number in (0, 1))
    member = MEMBER.result(first, state.Member)
    assert MEMBER.result(bytes(bytearray(first)), state.Member) is member
    assert MEMBER.result(other, state.Member) != member
    assert MEMBER.result(first) is not MEMBER.result(first), "a dict may be changed by whoever has it"


def test_decode__string_that_is_not_utf8__is_shown_with_marks():
    version = contract_abi("StakeVault").functions["version"]
    data = (32).to_bytes(32, "big") + (2).to_bytes(32, "big") + b"a\xff".ljust(32, b"\0")
    assert version.result(data) == "a�"


def test_event__topics__pad_indexed_values():
    event = contract_abi("TaskCoordinator").events["UpdateRevealed"]
    topics = event.topics(task_id=7, round=2)
    assert topics[1:] == [f"0x{7:064x}", f"0x{2:064x}", None]
    with pytest.raises(ChainError):
        event.decode([bytes(32)], b"")


def test_known_errors__include_libraries_and_openzeppelin():
    names = {error.name for error in known_errors().values()}
    assert {"UnexpectedPhase", "StakeTooLow", "ERC20InsufficientBalance", "InvalidParams", "FaucetTooSoon"} <= names
