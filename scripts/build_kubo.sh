#!/usr/bin/env bash
# Prints the path of an `ipfs` binary for the integration tests: the one on PATH, or Kubo built once from the
# Go module proxy into the cache folder (about 2 minutes; every module is checked against the checksum database).
#
# usage: build_kubo.sh [VERSION]    with a version (such as 0.41.0) it is that one, whatever is on PATH; the tests
#                                   run against it with CHAINFL_TEST_KUBO=VERSION.
#
# Exit codes: 0 with the path on stdout; 2 for a version that is none; 3 when neither `ipfs` nor Go is there; Go's own
# when the build fails.
set -euo pipefail

version=${1:-0.42.0}
if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
  echo "kubo: '$version' is no version such as 0.42.0" >&2
  exit 2
fi
cache="${CHAINFL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chainfl}/kubo-$version"
binary="$cache/ipfs"

if [ $# -eq 0 ] && command -v ipfs >/dev/null; then
  command -v ipfs
  exit 0
fi
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "kubo: neither 'ipfs' nor Go is on PATH; install Kubo (https://docs.ipfs.tech/install) or Go 1.26.4+" >&2
  exit 3
fi

mkdir -p "$cache"
build=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$build"' EXIT
echo "kubo: building Kubo $version into $cache (once, about 2 minutes)" >&2

# `go install …@v0.42.0` would ask for the list of versions, which not every module proxy serves.
cat >"$build/go.mod" <<MOD
module kubo.build

go 1.26.4

tool github.com/ipfs/kubo/cmd/ipfs

require github.com/ipfs/kubo v$version
MOD

# Go's caches live and die with the build folder: nothing is written outside of ours, and 2 GB are given back.
cd "$build"
export GOCACHE="$build/gocache" GOMODCACHE="$build/modcache" GOFLAGS="${GOFLAGS:-} -modcacherw -buildvcs=false"
go build -mod=mod -ldflags="-s -w" -o ipfs github.com/ipfs/kubo/cmd/ipfs >&2
"$build/ipfs" version >&2

# A rename, so that two builds at once, or one that is stopped, never leave a broken binary.
mv "$build/ipfs" "$binary"
echo "$binary"
