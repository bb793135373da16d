"""`ape console` starts with `coordinator`, `vault`, `registry` and `token` of the deployment of its chain.

Reads deployments/NETWORK.json, or the file that CHAINFL_DEPLOYMENT names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ape import Contract, networks

from chainfl.chain.artifacts import load_artifact
from chainfl.chain.deployment import Deployment
from chainfl.chain.networks import network_of_chain


def ape_init_extras() -> dict[str, Any]:
    """The deployed contracts by name; nothing when this chain has no deployment file."""
    name = network_of_chain(networks.provider.chain_id).name
    path = Path(os.environ.get("CHAINFL_DEPLOYMENT", Path("deployments") / f"{name}.json"))
    if not path.is_file():
        return {}
    deployment = Deployment.load(path)
    places = {
        "coordinator": ("TaskCoordinator", deployment.coordinator),
        "vault": ("StakeVault", deployment.vault),
        "registry": ("ModelRegistry", deployment.registry),
        "token": ("TrainingToken", deployment.token),
    }
    return {
        name: Contract(address, abi=list(load_artifact(contract).abi)) for name, (contract, address) in places.items()
    }
