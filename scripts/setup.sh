#!/bin/sh
# Sets up everything that `make demo` and `make test` need, once; the second time it only looks.
#
# This half finds a Python that can run the other half, scripts/setup.py. PYTHON=/path/to/python chooses one.
set -eu
cd "$(dirname "$0")/.."

# Says what is wrong with a Python: nothing, `version`, `venv`, or `broken` (a pyenv shim without a version behind it).
defect_of() {
  "$1" -I -c '
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    print("version")
    sys.exit()
try:
    import ensurepip, venv
except ImportError:
    print("venv")
' 2>/dev/null || echo broken
}

refused=""
for python in ${PYTHON:-.venv/bin/python python3.12 python3.11 python3 python}; do
  command -v "$python" >/dev/null 2>&1 || continue
  defect=$(defect_of "$python")
  [ -n "$defect" ] || exec "$python" -I scripts/setup.py "$@"
  [ "$defect" = broken ] || refused="$refused $python:$defect"
done

case "$refused" in
*:venv*)
  echo "set-up: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2
  ;;
*:version*)
  found=${refused#* } found=${found%%:*}
  echo "set-up: $("$found" --version 2>&1) is there, but chainfl needs 3.11 or 3.12 (NumPy 1.26 has no wheels for others):" \
    "install one beside it (macOS: brew install python@3.12; Debian, Ubuntu: apt install python3.12-venv; any: pyenv)" >&2
  ;;
*)
  echo "set-up: no Python found; chainfl needs 3.11 or 3.12:" \
    "install one (macOS: brew install python@3.12; Debian, Ubuntu: apt install python3.12-venv; any: pyenv)" >&2
  ;;
esac
exit 1
