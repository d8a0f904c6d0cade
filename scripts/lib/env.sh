# shellcheck shell=bash
# Shared by the scripts: finding Python, making .venv, installing the project into it. It is
# sourced, not run.
#
# After `prepare_environment [GROUP…]` the variable PYTHON holds the environment's interpreter.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
# requires-python in pyproject.toml
readonly NEEDED="3.11"

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# Tell whether $1 is a Python that is new enough.
is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Tell whether $1 can make virtual environments; Debian has a separate package for that.
can_make_environments() {
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

# Print the first Python that is new enough; prefer those that can make environments.
find_python() {
  local name fallback=""
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    is_new_enough "$name" || continue
    if can_make_environments "$name"; then
      command -v "$name"
      return 0
    fi
    [ -n "$fallback" ] || fallback=$(command -v "$name")
  done
  [ -n "$fallback" ] && printf '%s\n' "$fallback"
}

# Say how far apt-get is, every fifth of the way; reads its status lines (APT::Status-Fd).
show_progress() {
  local kind percent previous="" step
  while IFS=: read -r kind _ percent _; do
    case $kind in
      dlstatus) kind=downloaded ;;
      pmstatus) kind=installed ;;
      *) continue ;;
    esac
    step=$kind$((${percent%%.*} / 20))
    [ "$step" != "$previous" ] || continue
    previous=$step
    say "  Debian packages: ${percent%%.*} % $kind"
  done
}

# Install the Debian packages $@ as root. What apt-get says is shown only when it fails.
apt_get_install() {
  local log status=0
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get update && apt-get install -y --no-install-recommends -o APT::Status-Fd=3 "$@"
  } 3> >(show_progress) >"$log" 2>&1 </dev/null || status=1
  [ "$status" -eq 0 ] || tail -n 5 "$log" >&2
  rm -f "$log"
  return "$status"
}

# Print the line that installs the Debian packages $@.
apt_line() { printf 'sudo apt-get update && sudo apt-get install -y %s\n' "$*"; }

# Install the Debian packages $@ as root; otherwise print the line to type and stop.
apt_install() {
  command -v apt-get >/dev/null 2>&1 ||
    fail "Install Python $NEEDED or newer with its venv and ensurepip modules, then run this again."
  [ "$(id -u)" -eq 0 ] ||
    fail "A Debian package is missing. Type this line, then run this again:  $(apt_line "$@")"
  say "Installing the Debian packages: $*"
  apt_get_install "$@" ||
    fail "apt-get could not install $*. Check the network connection, then run this again."
}

# Print a Python that can make environments; install what is missing, if root runs this.
obtain_python() {
  local python package
  python=$(find_python) || true
  if [ -z "$python" ]; then
    if command -v python3 >/dev/null 2>&1; then
      fail "Python $NEEDED or newer is needed; the python3 here is $(python3 -c \
        'import platform; print(platform.python_version())' 2>/dev/null || echo 'not working')."
    fi
    apt_install python3 python3-venv
    python=$(find_python) || true
    [ -n "$python" ] || fail "This distribution's Python is older than the $NEEDED that is needed."
  fi
  if ! can_make_environments "$python"; then
    package=$(basename "$python")-venv
    apt_install "$package"
    can_make_environments "$python" ||
      fail "$python still cannot make virtual environments after installing $package."
  fi
  printf '%s\n' "$python"
}

# Print what the environment depends on; it is made again when that changes.
environment_identity() {
  printf '%s\n' "$ROOT"
  "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
}

require_writable() {
  [ -w "$ROOT" ] || fail "$(id -un) may not write to $ROOT, so .venv cannot be made there."
}

# Print the MB that are free in the folder $1.
free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }

# Stop unless the disk of the checkout has $1 MB free and $TMPDIR has room for pip to unpack in.
require_room() {
  local temporary=${TMPDIR:-/tmp} unpacked=150
  [ -d "$temporary" ] || fail "There is no folder $temporary, which TMPDIR names."
  [ "$(free_mb "$ROOT")" -ge "$1" ] ||
    fail "$ROOT has $(free_mb "$ROOT") MB free and the installation takes $1 MB. Make room there, or move the checkout to a larger disk."
  [ "$(free_mb "$temporary")" -ge "$unpacked" ] ||
    fail "$temporary has $(free_mb "$temporary") MB free and the installation takes $unpacked MB there for a while. Make room, or set TMPDIR to a folder on a larger disk."
}

make_environment() {
  # The mark is written last, so an incomplete environment has none.
  local mark=$VENV/.made python identity
  if [ -f "$mark" ] && identity=$(environment_identity) && [ "$identity" = "$(cat "$mark")" ]; then
    return 0
  fi
  require_writable
  require_room 300
  python=$(obtain_python)
  say "Making the virtual environment .venv with $python"
  rm -rf "$VENV"
  "$python" -m venv "$VENV" >&2 || fail "Making $VENV failed; the lines above say why."
  identity=$(environment_identity) || fail "The Python in $VENV does not run."
  printf '%s\n' "$identity" >"$mark"
}

# Run pip quietly; if it fails, say in one sentence what to do.
pip_install() {
  local log=$VENV/pip.log
  # With `user = true` in pip.conf, every installation into an environment fails.
  if PIP_USER=0 "$PYTHON" -m pip install --disable-pip-version-check --no-input "$@" \
    >"$log" 2>&1 </dev/null; then
    return 0
  fi
  tail -n 8 "$log" >&2
  if grep -q "No space left on device" "$log"; then
    fail "The disk is full: installing needs about 500 MB in $ROOT and as much in \$TMPDIR."
  fi
  if grep -qE "NewConnectionError|NameResolutionError|ConnectTimeout|Network is unreachable|Temporary failure in name resolution|ProxyError" "$log"; then
    fail "The Python package index cannot be reached. The first start needs a network connection; check it (and any proxy settings), then run this again."
  fi
  fail "Installing the Python packages failed; the lines above and $log say why."
}

# Install the project and the dependency groups $@, if something changed since the last time.
install_project() {
  local group stamp wanted
  stamp=$VENV/.installed$(printf -- '-%s' "$@")
  wanted=$(cat "$VENV/.made" "$ROOT/pyproject.toml" | sha256sum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return 0
  fi
  require_writable
  require_room $(($# > 0 ? 800 : 250))
  rm -f "$stamp"
  say "Installing the Python packages into .venv (the first time takes a few minutes)"
  local -a arguments=(--editable "$ROOT")
  for group in "$@"; do
    arguments+=(--group "$ROOT/pyproject.toml:$group")
  done
  if [ $# -gt 0 ] && [[ "$("$PYTHON" -m pip install --help)" != *--group* ]]; then
    pip_install --upgrade "pip>=25.1" # the first that knows dependency groups
  fi
  pip_install "${arguments[@]}"
  printf '%s\n' "$wanted" >"$stamp"
}

# Tell whether networks will run on a processor on which OpenVINO is faster than ncnn.
# OPENVINO=yes or OPENVINO=no overrides the answer.
wants_openvino() {
  case ${OPENVINO:-auto} in
    yes) return 0 ;;
    no) return 1 ;;
  esac
  # An emulator (qemu-user) shows the flags of the processor that it runs on.
  [ "$(uname -m)" = x86_64 ] || return 1
  if compgen -G '/dev/dri/renderD*' >/dev/null; then return 1; fi
  grep -qsw -m 1 avx512f /proc/cpuinfo
}

# Install OpenVINO where it is wanted. It is optional: a failure is reported, and the installation
# is not tried again at each start.
install_openvino() {
  local stamp=$VENV/.openvino requirement wanted
  wants_openvino || return 0
  requirement=$(sed -n 's/^openvino = \["\([^"]*\)"\].*/\1/p' "$ROOT/pyproject.toml")
  wanted="$requirement ${OPENVINO:-auto}"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return 0
  fi
  say "Installing OpenVINO, which is faster on this processor (60 MB to download; OPENVINO=no leaves it out)"
  if ! (pip_install "$requirement") 2>/dev/null; then
    say "OpenVINO could not be installed; the ncnn library does its work. OPENVINO=yes tries again."
    if [ "${OPENVINO:-auto}" = yes ]; then return 0; fi
  fi
  printf '%s\n' "$wanted" >"$stamp"
}

# Make the environment and install the project with the dependency groups $@.
prepare_environment() {
  # One script at a time: the lock on the folder ends when the descriptor is closed.
  exec 9<"$ROOT"
  if command -v flock >/dev/null 2>&1 && ! flock --nonblock 9; then
    say "Waiting for another script that is preparing .venv"
    flock 9
  fi
  # Ctrl-C ends the script, not only the step it meets: pip turns it into a failure of its own.
  trap 'say "Stopped before the installation was complete; the next start goes on with it."; exit 130' INT
  trap 'exit 143' TERM
  make_environment
  install_project "$@"
  if [ $# -eq 0 ]; then install_openvino; fi # the group test contains it
  trap - INT TERM
  exec 9<&-
}
