#!/usr/bin/env bash
# Makes a private virtual environment in which espnet_softpl runs; see --help.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
constraints="${root}/tools/constraints.txt"
layout=1  # raise it when the steps below change in a way that old ones must redo

usage() {
  cat <<'EOF'
Usage: tools/setup_venv.sh [DIR]

Makes a virtual environment in DIR (default: .venv at the project's root) and installs
ESPnet, the CPU build of torch (the default build where nvidia-smi works), everything
else that espnet_softpl needs, and espnet_softpl itself, editable. Nothing outside DIR
is changed. A finished environment is left as it is, an interrupted one is completed.

Environment variables:
  PYTHON               the Python to build on (default: the first of python3.11,
                       python3, python3.12 and python3.10 that is 3.10 or later)
  TORCH_BUILD          cpu or default; without it, default where nvidia-smi works
  PIP_EXTRA_INDEX_URL  further package indexes, for instance PyTorch's CPU wheel index
                       where the configured one lacks the CPU build of torch
EOF
}

die() {
  echo "setup_venv.sh: $*" >&2
  exit 1
}

# Prints the version "3.11" of the interpreter $1; fails where it does not run.
version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_new_enough() {
  [[ "$1" == 3.* ]] && (("${1#3.}" >= 10))
}

# Sets `python` and `version`: $PYTHON if it is given, else the first that fits.
choose_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    python="${PYTHON}"
    version="$(version_of "${python}")" || die "PYTHON=${python} does not run"
    is_new_enough "${version}" ||
      die "PYTHON=${python} is Python ${version}, but 3.10 or later is needed"
    return
  fi
  for candidate in python3.11 python3 python3.12 python3.10; do
    if version="$(version_of "${candidate}")" && is_new_enough "${version}"; then
      python="${candidate}"
      return
    fi
  done
  die "no Python 3.10 or later was found; name one with PYTHON=/path/to/python3"
}

# The exact version that the constraints state for package $1.
pin_of() {
  sed -n "s/^$1==//p" "${constraints}"
}

# Runs a command with its output in the log; shows the log's end where it fails.
logged() {
  echo "+ $*" >>"${log}"
  "$@" >>"${log}" 2>&1 </dev/null || {
    echo "setup_venv.sh: this command failed: $*" >&2
    tail -n 25 "${log}" >&2
    die "the end of ${log} is above; correct the cause and run this again"
  }
}

step() {
  echo "  [$((SECONDS / 60))m$((SECONDS % 60))s] $*"
}

pip_install() {
  logged "${venv_python}" -m pip install "$@"
}

# A package whose installation was killed has no INSTALLER file yet: forget it, so that
# pip installs it again instead of trusting it.
forget_unfinished_packages() {
  local info
  for info in "${venv}"/lib/python*/site-packages/*.dist-info; do
    if [ -d "${info}" ] && [ ! -e "${info}/INSTALLER" ]; then
      rm -r "${info}"
    fi
  done
}

# Where the index has no CPU build ("2.13.0+cpu"), the plain one works as well.
install_torch() {
  local torch seen
  torch="torch==$(pin_of torch)"
  if [ "${has_gpu}" = true ]; then
    step "${torch}"
    pip_install "${torch}"
    return
  fi
  step "${torch} (CPU build)"
  seen="$(wc -l <"${log}")"
  if "${venv_python}" -m pip install "${torch}+cpu" >>"${log}" 2>&1 </dev/null; then
    return
  fi
  # pip says it otherwise where the caller's settings constrain torch, too.
  if ! tail -n "+$((seen + 1))" "${log}" |
    grep -qE "No matching distribution|ResolutionImpossible"; then
    tail -n 25 "${log}" >&2
    die "torch could not be installed; the end of ${log} is above"
  fi
  echo "  The package index has no ${torch}+cpu: taking ${torch}, which may be the" \
    "CUDA build (about 5 GB); PIP_EXTRA_INDEX_URL may name PyTorch's CPU wheel index."
  pip_install "${torch}"
}

# ESPnet's pin setuptools<74 contradicts torch's setuptools>=77: a normal resolution
# would replace torch by an older CUDA build. ESPnet runs with the newer setuptools.
install_espnet() {
  step "espnet $(pin_of espnet) and torchaudio, without their own requirements"
  pip_install --no-deps "espnet==$(pin_of espnet)" "torchaudio==$(pin_of torchaudio)"
}

# ESPnet cannot be imported without torchaudio, whose released wheel is a CUDA build:
# beside a CPU torch its compiled part does not load. Without that part torchaudio
# takes its "no extension" path, where all that ESPnet's ASR training and decoding
# call still works (lost: forced_align, rnnt_loss). Only DIR is touched.
repair_torchaudio() {
  if "${venv_python}" -c "import torchaudio" >>"${log}" 2>&1; then
    return
  fi
  step "torchaudio: removing the CUDA extension, which this torch cannot load"
  rm -f "${venv}"/lib/python*/site-packages/torchaudio/lib/*.so
  logged "${venv_python}" -c "import torchaudio"
}

# What an up-to-date environment has been made from.
fingerprint() {
  echo "${layout} ${root}"
  cksum <"${root}/setup.py"
  cksum <"${constraints}"
}

is_ready() {
  [ -e "${stamp}" ] && [ "$(cat "${stamp}")" = "$(fingerprint)" ] &&
    [ -x "${venv_python}" ]
}

# Two set-ups of one directory at a time would disturb each other. The lock ends with
# the process, killed or not; without flock (not on Linux) there is none.
wait_for_others() {
  command -v flock >/dev/null || return 0
  exec 9>"${venv}/setup.lock"
  flock --nonblock 9 && return
  echo "  Another set-up of ${venv} is running: waiting for it."
  flock 9
}

install_all() {
  local constrained=(-c "${constraints}")
  if [ "${version}" != 3.11 ] && [ "${version}" != 3.12 ]; then
    constrained=()
    step "Python ${version} is not the tested 3.11: pip chooses versions by setup.py"
  fi
  logged "${python}" -m venv "${venv}"
  forget_unfinished_packages
  install_torch
  step "what ESPnet and espnet_softpl need"
  (cd "${root}" &&
    pip_install --use-pep517 ${constrained[@]+"${constrained[@]}"} -e ".[test]")
  install_espnet
  repair_torchaudio
  step "checking the result"
  logged "${venv_python}" -m espnet_softpl.bin.check_env
}

main() {
  local venv stamp log venv_python python version has_gpu=false size="2 GB"
  case "${1:-}" in
    -h | --help) usage && exit 0 ;;
    -*) die "unknown option $1; see --help" ;;
  esac
  [ $# -le 1 ] || die "one directory at most, but got $#: $*"
  venv="${1:-${root}/.venv}"
  [[ "${venv}" == /* ]] || venv="${PWD}/${venv}"
  stamp="${venv}/espnet_softpl.setup"
  log="${venv}/setup.log"
  venv_python="${venv}/bin/python"

  if is_ready; then
    echo "The environment in ${venv} is ready."
    return
  fi
  if [ ! -e "${stamp}" ] && [ -n "$(ls -A "${venv}" 2>/dev/null)" ]; then
    die "${venv} is not empty and was not made by this script: name another" \
      "directory, remove it, or activate it if it is an environment to be used"
  fi
  choose_python
  case "${TORCH_BUILD:-}" in
    cpu) ;;
    default) has_gpu=true ;;
    "") ! nvidia-smi >/dev/null 2>&1 || has_gpu=true ;;
    *) die "TORCH_BUILD must be cpu or default, not '${TORCH_BUILD}'" ;;
  esac
  [ "${has_gpu}" = false ] || size="6 GB"
  mkdir -p "${venv}"
  if [ ! -e "${stamp}" ]; then
    echo "Making a private environment in ${venv} (about 2 minutes, ${size})"
  else
    echo "Completing the environment in ${venv}"
  fi
  touch "${stamp}"
  wait_for_others
  ! is_ready || return 0
  echo "incomplete" >"${stamp}"
  # Settings of the caller that would send packages elsewhere than into DIR.
  unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
  export PIP_USER=0 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1
  # Where the system's directory for temporary files is small, torch does not fit.
  export TMPDIR="${venv}/tmp"
  rm -rf "${TMPDIR}"
  mkdir "${TMPDIR}"
  install_all
  rm -rf "${TMPDIR}"
  fingerprint >"${stamp}.new"
  mv "${stamp}.new" "${stamp}"
  step "ready; log: ${log}"
}

main "$@"
