#!/bin/sh
# Fails when the gas of a transaction or the size of a contract is more than 1% away from contracts/snapshots.
#
#   scripts/check_snapshots.sh           checks
#   scripts/check_snapshots.sh --write   measures anew; commit the files with the reason for the change
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
  "") mode=check ;;
  --write) mode=write ;;
  *) echo "usage: scripts/check_snapshots.sh [--write]" >&2; exit 2 ;;
esac
if [ ! -x node_modules/.bin/forge ]; then
  echo "forge is missing: run \`make setup\` first" >&2
  exit 14
fi
CHAINFL_SNAPSHOTS=$mode exec node_modules/.bin/forge test --match-path contracts/test/GasSnapshot.t.sol
