#!/usr/bin/env bash
# Static analysis of the contracts: slither over contracts/src, where every finding of medium severity or above is
# explained in scripts/analyse_triage.toml or fails the run, and halmos over contracts/test/symbolic, which proves the
# vault's solvency and the conservation of payouts for all values at once.
#
# Both tools come from PyPI into an environment of their own in the cache folder, so that none of what they need meets
# what chainfl needs. Exit codes: 0 when all holds; 1 for a finding, a stale explanation or a counterexample; 2 when a
# tool itself fails.
set -euo pipefail
cd "$(dirname "$0")/.."

slither_version=0.11.6
halmos_version=0.3.3
cache="${CHAINFL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chainfl}/analysis-$slither_version-$halmos_version"

# Written last, so that an installation that was stopped is done again.
if [ ! -f "$cache/complete" ]; then
  echo "analyse: installing slither $slither_version and halmos $halmos_version into $cache (once)" >&2
  mkdir -p "$(dirname "$cache")"
  .venv/bin/python -m venv --clear "$cache"
  "$cache/bin/pip" install --quiet --disable-pip-version-check \
    "slither-analyzer==$slither_version" "halmos==$halmos_version" >&2
  touch "$cache/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# scripts/solc comes first: the environment has a downloader under the same name.
export PATH="$PWD/scripts:$PWD/node_modules/.bin:$cache/bin:$PATH"
export FOUNDRY_OUT="$work/out" FOUNDRY_CACHE_PATH="$work/cache"

echo "== slither $slither_version over contracts/src"
forge build --build-info --skip 'contracts/test/**' >"$work/build.log" || { cat "$work/build.log" >&2; exit 2; }
# Slither's own exit code counts findings; whether it ran at all is in its report.
slither . --ignore-compile --foundry-out-directory "$FOUNDRY_OUT" --filter-paths 'node_modules|contracts/test' \
  --exclude-low --exclude-informational --exclude-optimization --json "$work/slither.json" 2>"$work/slither.log" || true
[ -s "$work/slither.json" ] || { cat "$work/slither.log" >&2; exit 2; }
.venv/bin/python scripts/analyse_triage.py "$work/slither.json" scripts/analyse_triage.toml

echo "== halmos $halmos_version over contracts/test/symbolic"
export FOUNDRY_PROFILE=symbolic FOUNDRY_OUT="$work/symbolic-out" FOUNDRY_CACHE_PATH="$work/symbolic-cache"
# yices, which comes with halmos; each check may take minutes. What does not finish counts as failed.
halmos --forge-build-out "$FOUNDRY_OUT" --no-status --solver-threads "${ANALYSE_THREADS:-1}" --loop 4 \
  --solver-timeout-assertion 10m "$@"
echo "== all holds"
