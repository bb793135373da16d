"""A deployment: four contracts that know one another by immutables, and the file that records them.

The addresses are predicted from the deployer's nonce, so that each constructor can be given the others; the last one
checks the wiring. There is nothing to configure afterwards and nobody who could.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from eth_utils.address import is_checksum_formatted_address, to_checksum_address

from chainfl.agents.ports import Sent, TimedOut, WouldRevert
from chainfl.chain.abi import contract_abi
from chainfl.chain.artifacts import LIBRARIES, load_artifact
from chainfl.chain.client import CONTRACT_VERSION, ChainClient
from chainfl.chain.contracts import Contract, Transaction
from chainfl.chain.keys import Signer
from chainfl.chain.transactions import TransactionSender, predicted_address
from chainfl.errors import DeploymentInvalid, NoContract, TransactionTimedOut, UsageError, WrongChainId
from chainfl.types import Address

FORMAT: Final = 1
MAX_FILE_BYTES: Final = 65_536
TOKEN: Final = 10**18

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class TokenParams:
    """What TrainingToken's constructor takes, in its order. Amounts in its wei."""

    initial_supply: int = 10_000_000 * TOKEN
    faucet_supply: int = 90_000_000 * TOKEN
    drip_amount: int = 1_000 * TOKEN
    drip_interval_s: int = 86_400


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where one set of contracts is, and how it was made.

    block: the first block that can hold an event of it. token_params: None when the token was there before.
    commit: of the source it was built from, if known. previous: the coordinator of the deployment that it follows.
    """

    chain_id: int
    token: Address
    vault: Address
    coordinator: Address
    registry: Address
    block: int
    deployer: Address
    unbonding_s: int
    token_params: TokenParams | None
    compiler: str
    version: str = CONTRACT_VERSION
    commit: str | None = None
    previous: Address | None = None

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all. Raises UsageError when the folder cannot be written."""
        document = {"format": FORMAT, **asdict(self)}
        _write_whole(path, json.dumps(document, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Deployment:
        """Reads a file that may come from a stranger. Raises DeploymentInvalid with every problem found."""
        return parse_deployment(_read_document(Path(path)), str(path))


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def _read_document(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DeploymentInvalid(f"cannot read the deployment file {path}: {error.strerror}", path=str(path)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise DeploymentInvalid(f"{path} is too large for a deployment file", path=str(path))
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DeploymentInvalid(f"{path} is not JSON", path=str(path)) from error


def parse_deployment(document: Any, source: str) -> Deployment:
    """A deployment from a decoded JSON document. Raises DeploymentInvalid with every problem found."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DeploymentInvalid(f"{source} is not a deployment file of format {FORMAT}", path=source)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, check in _FIELDS.items():
        try:
            values[name] = check(document.get(name))
        except ValueError as error:
            problems.append(f"{name} {error}")
    problems += [f"{name} is not a field of a deployment" for name in sorted(set(document) - {*_FIELDS, "format"})]
    if problems:
        raise DeploymentInvalid(f"{source}: {'; '.join(problems)}", path=source, problems=problems)
    return Deployment(**values)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**256:
        raise ValueError("is not a whole number")
    return value


def _address(value: Any) -> Address:
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value) or int(value, 16) == 0:
        raise ValueError("is not an address")
    checked = Address(to_checksum_address(value))
    if is_checksum_formatted_address(value) and value != checked:
        raise ValueError("is an address with a wrong checksum")
    return checked


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError("is not a short text")
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _token_params(value: Any) -> TokenParams:
    names = set(TokenParams.__dataclass_fields__)
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"does not have exactly {', '.join(sorted(names))}")
    return TokenParams(**{name: _whole(item) for name, item in value.items()})


_FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "chain_id": _whole,
    "token": _address,
    "vault": _address,
    "coordinator": _address,
    "registry": _address,
    "block": _whole,
    "deployer": _address,
    "unbonding_s": _whole,
    "token_params": _optional(_token_params),
    "compiler": _text,
    "version": _text,
    "commit": _optional(_text),
    "previous": _optional(_address),
}


# --- deploying -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment before it is there: every address follows from the deployer's first nonce."""

    deployment: Deployment
    first_nonce: int

    def libraries(self) -> dict[str, Address]:
        """What the coordinator links, at the first nonces of the plan."""
        deployer = self.deployment.deployer
        return {name: predicted_address(deployer, self.first_nonce + i) for i, name in enumerate(LIBRARIES)}

    def steps(self) -> tuple[tuple[str, Address, tuple[Any, ...]], ...]:
        """(contract, address, constructor arguments) in the order of their nonces."""
        d = self.deployment
        libraries = tuple((name, address, ()) for name, address in self.libraries().items())
        token = () if d.token_params is None else (("TrainingToken", d.token, tuple(asdict(d.token_params).values())),)
        return (
            *libraries,
            *token,
            ("StakeVault", d.vault, (d.token, d.coordinator, d.unbonding_s)),
            ("TaskCoordinator", d.coordinator, (d.vault, d.registry)),
            ("ModelRegistry", d.registry, (d.coordinator,)),
        )


def plan_deployment(
    *,
    chain_id: int,
    deployer: Address,
    first_nonce: int,
    block: int,
    unbonding_s: int,
    token: Address | TokenParams,
    commit: str | None = None,
    previous: Address | None = None,
) -> Plan:
    """Predicts the four addresses. token: one that exists, or what to give a new TrainingToken's constructor."""
    params = token if isinstance(token, TokenParams) else None
    shift = 0 if params is None else 1
    address = [predicted_address(deployer, first_nonce + len(LIBRARIES) + offset) for offset in range(4)]
    deployment = Deployment(
        chain_id=chain_id,
        token=address[0] if isinstance(token, TokenParams) else token,
        vault=address[shift],
        coordinator=address[shift + 1],
        registry=address[shift + 2],
        block=block,
        deployer=deployer,
        unbonding_s=unbonding_s,
        token_params=params,
        compiler=load_artifact("TaskCoordinator").compiler,
        commit=commit,
        previous=previous,
    )
    return Plan(deployment, first_nonce)


def deploy(
    client: ChainClient,
    signer: Signer,
    *,
    unbonding_s: int,
    token: Address | TokenParams = TokenParams(),
    path: Path | None = None,
    commit: str | None = None,
    previous: Address | None = None,
    receipt_timeout_s: float = 180.0,
    progress: Callable[[str, Address], None] = lambda _name, _address: None,
) -> Deployment:
    """Sends the contracts to their predicted addresses, checks the wiring, and records it in `path`.

    With a path, a deployment that was cut off carries on where it was: the plan lies beside it as `PATH.partial`.
    When another transaction of the account came in between, the plan cannot hold: DeploymentInvalid says so, the
    partial file is removed, and the next call starts afresh; nothing but gas is lost.
    """
    if path is not None and path.exists():
        raise UsageError(f"{path} already records a deployment; choose another path", path=str(path))
    plan = _resume(client, signer, path) or _begin(client, signer, path, unbonding_s, token, commit, previous)
    sender = TransactionSender(client, signer, receipt_timeout_s=receipt_timeout_s)
    for offset, step in enumerate(plan.steps()):
        _deploy_step(client, sender, plan, offset, step, path)
        progress(step[0], step[1])
    check_deployment(client, plan.deployment)
    if path is not None:
        plan.deployment.save(path)
        _partial(path).unlink(missing_ok=True)
    return plan.deployment


def _begin(
    client: ChainClient,
    signer: Signer,
    path: Path | None,
    unbonding_s: int,
    token: Address | TokenParams,
    commit: str | None,
    previous: Address | None,
) -> Plan:
    """A fresh plan from the account's next nonce, written down before anything is sent."""
    plan = plan_deployment(
        chain_id=client.chain_id,
        deployer=signer.address,
        first_nonce=int(client.request("eth_getTransactionCount", [signer.address, "pending"]), 16),
        block=client.block_number(),
        unbonding_s=unbonding_s,
        token=token,
        commit=commit,
        previous=previous,
    )
    if path is not None:
        document = {"format": FORMAT, "first_nonce": plan.first_nonce, "deployment": asdict(plan.deployment)}
        _write_whole(_partial(path), json.dumps(document, indent=2) + "\n")
    return plan


def _resume(client: ChainClient, signer: Signer, path: Path | None) -> Plan | None:
    """The plan that was cut off, if there is one of this account on this chain."""
    if path is None or not _partial(path).exists():
        return None
    document = _read_document(_partial(path))
    first_nonce = document.get("first_nonce") if isinstance(document, dict) else None
    if not isinstance(first_nonce, int) or not isinstance(document.get("deployment"), dict):
        raise DeploymentInvalid(f"{_partial(path)} is damaged; remove it to start afresh", path=str(path))
    deployment = parse_deployment({"format": FORMAT, **document["deployment"]}, str(_partial(path)))
    if (deployment.chain_id, deployment.deployer) != (client.chain_id, signer.address):
        raise DeploymentInvalid(
            f"{_partial(path)} belongs to {deployment.deployer} on chain {deployment.chain_id}", path=str(path)
        )
    return Plan(deployment, first_nonce)


def _deploy_step(
    client: ChainClient,
    sender: Any,
    plan: Plan,
    offset: int,
    step: tuple[str, Address, tuple[Any, ...]],
    path: Path | None,
) -> None:
    """One contract, unless it is there already."""
    name, address, arguments = step
    if client.has_code(address):
        return
    if int(client.request("eth_getTransactionCount", [sender.account, "pending"]), 16) != plan.first_nonce + offset:
        _abandon(path, f"another transaction of {sender.account} came before the {name}, whose address was predicted")
    code = load_artifact(name).linked(plan.libraries())
    if arguments:
        code += contract_abi(name).encode_constructor(*arguments)
    result = sender.send(Transaction(f"deploy {name}", None, code))
    if isinstance(result, WouldRevert):
        _abandon(path, f"the {name} refuses to be created: {result.error}")
    if isinstance(result, TimedOut):
        raise TransactionTimedOut(f"no receipt yet for the {name}; run the command again", tx_hash=result.tx_hash)
    if not isinstance(result, Sent) or not client.has_code(address):
        _abandon(path, f"the {name} did not arrive at its predicted address {address}")


def _abandon(path: Path | None, message: str) -> NoReturn:
    if path is not None:
        _partial(path).unlink(missing_ok=True)
    raise DeploymentInvalid(f"{message}; deploy again")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


# --- checking ------------------------------------------------------------------------------------


def check_deployment(client: ChainClient, deployment: Deployment) -> None:
    """Raises unless the endpoint has this deployment: WrongChainId, NoContract, WrongContractVersion,
    and DeploymentInvalid when the contracts do not know one another as the file says."""
    if client.chain_id != deployment.chain_id:
        raise WrongChainId(
            f"the endpoint serves chain {client.chain_id}, and the deployment is on {deployment.chain_id}",
            expected=deployment.chain_id,
            found=client.chain_id,
        )
    _check_versions(client, deployment)
    _check_wiring(client, deployment)


def _check_versions(client: ChainClient, deployment: Deployment) -> None:
    for name, address in (
        ("TaskCoordinator", deployment.coordinator),
        ("StakeVault", deployment.vault),
        ("ModelRegistry", deployment.registry),
    ):
        client.check_contract(address, name, contract_abi(name).functions["version"])
    if not client.has_code(deployment.token):
        raise NoContract(f"there is no token at {deployment.token}", address=deployment.token, name="token")


def _check_wiring(client: ChainClient, deployment: Deployment) -> None:
    coordinator = Contract("TaskCoordinator", deployment.coordinator)
    vault = Contract("StakeVault", deployment.vault)
    registry = Contract("ModelRegistry", deployment.registry)
    expected = {
        "coordinator.vault": (coordinator.call("vault"), deployment.vault),
        "coordinator.registry": (coordinator.call("registry"), deployment.registry),
        "vault.coordinator": (vault.call("coordinator"), deployment.coordinator),
        "vault.token": (vault.call("token"), deployment.token),
        "vault.unbonding": (vault.call("unbonding"), deployment.unbonding_s),
        "registry.coordinator": (registry.call("coordinator"), deployment.coordinator),
    }
    found = client.read_all([call for call, _ in expected.values()])
    wrong = [
        f"{what} is {value}, not {wanted}"
        for (what, (_, wanted)), value in zip(expected.items(), found, strict=True)
        if value != wanted
    ]
    if wrong:
        raise DeploymentInvalid(f"the contracts are not wired as the file says: {'; '.join(wrong)}", problems=wrong)
