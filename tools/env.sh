# shellcheck shell=bash
# Sourced, never run: sets PYTHON to an interpreter in which espnet_softpl, ESPnet and
# torch are installed. $PYTHON or the active python3 is used as it is where it has them;
# otherwise tools/setup_venv.sh makes the private environment .venv, which is put first
# in PATH. Nothing is imported, so that this takes a fraction of a second.

_softpl_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Prints the absolute path of interpreter $1 where it has all three; fails otherwise.
# The current directory does not count: a checkout is importable from inside itself.
_softpl_ready() {
  "$1" - 2>/dev/null <<'EOF'
import importlib.util
import sys

sys.path = [entry for entry in sys.path if entry]
needed = ("espnet_softpl", "espnet2", "torch")
if any(importlib.util.find_spec(name) is None for name in needed):
    sys.exit(1)
print(sys.executable)
EOF
}

if _softpl_found="$(_softpl_ready "${PYTHON:-python3}")"; then
  PYTHON="${_softpl_found}"
else
  if [ ! -e "${_softpl_root}/.venv/espnet_softpl.setup" ]; then
    echo "espnet_softpl and ESPnet are not importable from ${PYTHON:-python3}:" >&2
  fi
  "${_softpl_root}/tools/setup_venv.sh" >&2 || return 1
  PYTHON="${_softpl_root}/.venv/bin/python"
  PATH="${_softpl_root}/.venv/bin:${PATH}"
fi
export PYTHON PATH
unset _softpl_root _softpl_found
unset -f _softpl_ready
