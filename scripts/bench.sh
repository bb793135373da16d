#!/bin/sh
# Runs every benchmark, one after the other, so that none disturbs another's figures. Not among them: learning.py, whose
# tables take hours and need MNIST; it is started by hand and goes on where it was cut.
set -eu
cd "$(dirname "$0")/.."

mkdir -p .build/bench
for script in benchmarks/[a-z]*.py; do
  name=$(basename "$script" .py)
  [ "$name" != learning ] || continue
  printf '\n== %s\n' "$name"
  .venv/bin/python "$script" --json ".build/bench/$name.json"
done
