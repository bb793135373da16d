#!/bin/sh
# Everything that must hold before a change lands. CI runs this file and nothing else; the quick checks come first,
# and the first step that fails ends the run.
set -eu
cd "$(dirname "$0")/.."

python=.venv/bin/python
forge=node_modules/.bin/forge

# step NAME COMMAND...: runs it and says how long it took.
step() {
  name=$1
  shift
  printf '\n== %s\n' "$name"
  began=$(date +%s)
  if ! "$@"; then
    echo "== $name FAILED after $(($(date +%s) - began)) s: $*" >&2
    exit 1
  fi
  echo "== $name: $(($(date +%s) - began)) s"
}

# Tests against a real Kubo node need an `ipfs`: the one on PATH, or one built once into the cache, which takes Go.
kubo() {
  sh_status=0
  bash scripts/build_kubo.sh || sh_status=$?
  if [ "$sh_status" -eq 3 ] && [ "${CI:-}" != true ]; then
    echo "SKIPPED: the tests against real Kubo nodes (tests/integration/test_storage_{kubo,swarm,pinning,gateway}.py, test_data_sets.py)"
    return 0
  fi
  return "$sh_status"
}

# The contracts are built and tested beside mypy and the unit tests, which then have both cores to themselves.
contracts_log=$(mktemp)
contracts=
trap '[ -z "$contracts" ] || kill "$contracts" 2>/dev/null || :; rm -f "$contracts_log"' EXIT
trap 'exit 130' INT TERM
start_contracts() {
  { "$forge" build && "$forge" test; } >"$contracts_log" 2>&1 &
  contracts=$!
}
contracts_done() {
  status=0
  wait "$contracts" || status=$?
  contracts=
  cat "$contracts_log"
  rm -f "$contracts_log" # the last step replaces this shell, and its trap with it
  return "$status"
}

rm -f .coverage .coverage.*

step "ruff check" .venv/bin/ruff check .
step "ruff format" .venv/bin/ruff format --check .
step "forge fmt" "$forge" fmt --check
start_contracts
step "mypy" .venv/bin/mypy
step "unit tests" "$python" -m pytest tests/unit -n 2 --dist worksteal --cov --cov-report=
step "forge build and test, begun before mypy" contracts_done
step "kubo" kubo

# Two at a time: each has a chain, a daemon or a folder of its own.
step "differential and integration tests" \
  "$python" -m pytest tests/differential tests/integration -n 2 --dist worksteal --cov --cov-append --cov-report=

# The last step is pytest itself, so that the run ends with its closing line; its coverage includes all others'.
# Two files at a time, since much of a task is waiting for its windows; tests of a file share what they play.
printf '\n== end-to-end tests\n'
exec "$python" -m pytest tests/e2e -n 2 --dist loadfile --cov --cov-append --cov-report=term --durations=10
