#!/bin/sh
# Runs every benchmark, one after the other, so that none disturbs another's figures.
set -eu
cd "$(dirname "$0")/.."

mkdir -p .build/bench
for script in benchmarks/[a-z]*.py; do
  name=$(basename "$script" .py)
  printf '\n== %s\n' "$name"
  .venv/bin/python "$script" --json ".build/bench/$name.json"
done
