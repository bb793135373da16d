"""The deployment file: written whole, read as if a stranger wrote it; and addresses that follow from a nonce."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.chain.artifacts import LIBRARIES
from chainfl.chain.deployment import (
    Deployment,
    TokenParams,
    parse_deployment,
    plan_deployment,
)
from chainfl.chain.networks import NETWORKS, network_of_chain
from chainfl.chain.transactions import predicted_address
from chainfl.errors import DeploymentInvalid, UsageError
from chainfl.types import Address

DEPLOYER = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
PLAN = plan_deployment(
    chain_id=31_337, deployer=DEPLOYER, first_nonce=3, block=7, unbonding_s=60, token=TokenParams(), commit="abc"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "deployments" / "local.json"
    PLAN.deployment.save(target)
    return target


def change(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_file__saved_and_loaded__is_the_same(path: Path):
    assert Deployment.load(path) == PLAN.deployment
    assert [item.name for item in path.parent.iterdir()] == ["local.json"]


def test_plan__each_step__goes_to_the_address_of_its_nonce():
    steps = PLAN.steps()
    assert [name for name, _, _ in steps] == [
        *LIBRARIES,
        "TrainingToken",
        "StakeVault",
        "TaskCoordinator",
        "ModelRegistry",
    ]
    assert [address for _, address, _ in steps] == [predicted_address(DEPLOYER, 3 + i) for i in range(len(steps))]


def test_plan__token_that_exists__deploys_none():
    plan = plan_deployment(
        chain_id=1, deployer=DEPLOYER, first_nonce=0, block=0, unbonding_s=1, token=PLAN.deployment.token
    )
    assert plan.deployment.token == PLAN.deployment.token
    assert "TrainingToken" not in [name for name, _, _ in plan.steps()]
    assert [address for _, address, _ in plan.steps()][-1] == plan.deployment.registry


def test_load__path_as_text__is_read_too(path: Path):
    assert Deployment.load(str(path)) == Deployment.load(path)


def test_load__several_wrong_fields__reports_all(path: Path):
    with pytest.raises(DeploymentInvalid) as caught:
        Deployment.load(change(path, chain_id="1", vault="0x12", extra=1, commit=5))
    assert len(caught.value.evidence["problems"]) == 4
    assert caught.value.exit_code == 36


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"chain_id": True},
        {"chain_id": -1},
        {"token": "0x" + "0" * 40},
        {"token": "0xF39fd6e51aad88F6F4ce6aB8827279cffFb92266"},
        {"compiler": "x" * 201},
        {"compiler": "a\nb"},
        {"token_params": {"initial_supply": 1}},
        {"token_params": []},
        {"unbonding_s": 1.5},
        {"previous": "nobody"},
    ],
)
def test_load__hostile_value__raises(path: Path, changes: dict[str, Any]):
    with pytest.raises(DeploymentInvalid):
        Deployment.load(change(path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "x" * 70_000, '{"format": 1}'])
def test_load__not_a_deployment__raises(tmp_path: Path, text: str):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(DeploymentInvalid):
        Deployment.load(path)


def test_load__missing_file__raises(tmp_path: Path):
    with pytest.raises(DeploymentInvalid, match="No such file"):
        Deployment.load(tmp_path / "none.json")


def test_save__folder_that_is_a_file__raises_usage_error(path: Path):
    with pytest.raises(UsageError):
        PLAN.deployment.save(path / "below.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Deployment.__dataclass_fields__)), json_values)
def test_parse__any_value_in_any_field__is_accepted_or_named(field: str, value: Any):
    document = {"format": 1, **json.loads(json.dumps(_document())), field: value}
    try:
        parsed = parse_deployment(document, "test")
    except DeploymentInvalid as error:
        message = str(error)
    else:
        message = field if replace(parsed, **{field: getattr(PLAN.deployment, field)}) == PLAN.deployment else ""
    assert field in message


def _document() -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(PLAN.deployment)


@pytest.mark.parametrize(
    ("name", "chain_id"),
    [
        ("local", 31_337),
        ("sepolia", 11_155_111),
        ("hoodi", 560_048),
        ("base-sepolia", 84_532),
        ("op-sepolia", 11_155_420),
    ],
)
def test_networks__each_name__has_its_chain_id(name: str, chain_id: int):
    assert NETWORKS[name].chain_id == chain_id
    assert network_of_chain(chain_id) is NETWORKS[name]


def test_networks__poll_interval__is_half_a_block_and_at_most_a_second():
    assert NETWORKS["local"].poll_interval_s == 0.5
    assert NETWORKS["sepolia"].poll_interval_s == 1.0
    assert network_of_chain(999).windows == NETWORKS["sepolia"].windows
