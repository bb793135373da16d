#!/bin/sh
# Runs every benchmark, one after the other, so that none disturbs another's figures. Not among them, as they need
# MNIST: learning.py, whose tables take hours, and overhead.py, which takes one. They are started by hand.
set -eu
cd "$(dirname "$0")/.."

mkdir -p .build/bench
for script in benchmarks/[a-z]*.py; do
  name=$(basename "$script" .py)
  case $name in learning | overhead) continue ;; esac
  printf '\n== %s\n' "$name"
  .venv/bin/python "$script" --json ".build/bench/$name.json"
done
