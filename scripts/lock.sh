#!/bin/sh
# Resolves the dependencies again, keeping every version that still fits. UPGRADE=1 takes the newest that do.
# Both locks hold hashes and no addresses: where packages come from is the business of whoever installs them.
set -eu
cd "$(dirname "$0")/.."

export UV_CUSTOM_COMPILE_COMMAND="make lock"
.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
  ${UPGRADE:+--upgrade} --output-file requirements.txt pyproject.toml
npm install --package-lock-only --ignore-scripts
