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
    echo "SKIPPED: the tests against a real Kubo node (tests/integration/test_storage_kubo.py)"
    return 0
  fi
  return "$sh_status"
}

rm -f .coverage .coverage.*

step "ruff check" .venv/bin/ruff check .
step "ruff format" .venv/bin/ruff format --check .
step "forge fmt" "$forge" fmt --check
step "mypy" .venv/bin/mypy
step "forge build" "$forge" build
step "unit tests" "$python" -m pytest tests/unit --cov --cov-report=
step "forge test" "$forge" test
step "kubo" kubo

# The last step is pytest itself, so that the run ends with its closing line; its coverage includes the unit tests'.
printf '\n== differential, integration and end-to-end tests\n'
exec "$python" -m pytest tests/differential tests/integration tests/e2e --cov --cov-append --cov-report=term --durations=10
