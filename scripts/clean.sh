#!/bin/sh
# Takes away what set-up, builds and tests made: here, and in the cache folder. Results of demos stay.
set -eu
cd "$(dirname "$0")/.."

rm -rf .venv node_modules .build contracts/out contracts/cache chainfl.egg-info
rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
find chainfl scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# By name, never the folder itself: CHAINFL_CACHE may point at a folder that holds something else as well.
cache="${CHAINFL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chainfl}"
if [ -d "$cache" ]; then
  chmod -R u+w "$cache"/kubo-* 2>/dev/null || true
  rm -rf "$cache/uv" "$cache/npm" "$cache/pip" "$cache/matplotlib" "$cache"/kubo-*
  rmdir "$cache" 2>/dev/null || echo "clean: kept $cache, which holds other files"
fi
