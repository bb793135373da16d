"""The chain: contract wrappers, transactions, events, deployments, keys. The only folder that imports web3."""
