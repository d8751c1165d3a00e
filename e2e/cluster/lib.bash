# Owns the names, places and small habits that every script of this folder shares: where the cache and the running
# cluster's state live, how a step reports itself, how a command's noise is kept in a log, and the lock that lets one
# script change the cluster at a time. In: XDG_CACHE_HOME, HOME. Out: variables and functions; nothing is started here.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for the scripts that source this file

[ -z "${started_s:-}" ] || return 0
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
e2e=$(dirname "$here")

kubernetes_version=v1.36.3
cluster_name=ringmaster
node_image_name=localhost/ringmaster-e2e-node

cache=${XDG_CACHE_HOME:-$HOME/.cache}/ringmaster/e2e
state=$cache/cluster
own_kubeconfig=$state/kubeconfig
log_dir=$state/log
mkdir -p "$cache" "$state" "$log_dir"

started_s=$(date +%s)

# A line of progress: seconds since this script began, then what happens now.
step() { printf '[%4d s] %s\n' $(($(date +%s) - started_s)) "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# quietly LOG COMMAND...: the command's output goes to a log, whose end is shown only when the command fails.
quietly() {
  local log=$log_dir/$1.log
  shift
  "$@" >"$log" 2>&1 </dev/null && return
  local code=$?
  tail -n 40 "$log" >&2
  fail "'$*' failed with exit code $code; all of its output: $log"
}

# until_true SECONDS COMMAND...: asks again and again, silently; fails when the time is over.
until_true() {
  local deadline_s=$(($(date +%s) + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$deadline_s" ] || return 1
    sleep 0.2
  done
}

# The first 16 hex digits of a hash over its standard input: the name under which a built thing is cached.
short_hash() { sha256sum | cut -c 1-16; }

# remove_other_versions PREFIX KEEP: of the cached things PREFIX-*, only KEEP stays.
remove_other_versions() {
  local path
  for path in "$1"-*; do
    [ "$path" = "$2" ] || [ ! -e "$path" ] || rm -rf "$path"
  done
}

# Only one script may change the cluster or the cache at a time; the lock dies with its holder, however that ends.
# A script that calls another one of this folder hands its lock down.
take_lock() {
  [ -z "${RINGMASTER_E2E_LOCKED:-}" ] || return 0
  exec 9>"$cache/lock"
  flock -n 9 || {
    step "waiting for another script that holds $cache/lock"
    flock 9
  }
  export RINGMASTER_E2E_LOCKED=1
}

# Where the cluster comes from: "given" by a KUBECONFIG of the caller, made by the machine's "docker", or by our "own"
# engine; empty while there is none. A KUBECONFIG that `exec` set is ours, not the caller's.
cluster_mode() {
  if [ -n "${KUBECONFIG:-}" ] && [ "$KUBECONFIG" != "$own_kubeconfig" ]; then
    echo given
  elif [ -f "$state/mode" ]; then
    cat "$state/mode"
  fi
}

apt_update_once() {
  [ -z "${apt_updated:-}" ] || return 0
  step "reading the Debian package index"
  quietly apt-update apt-get update -q
  apt_updated=yes
}

# install_packages PROBE=PACKAGE...: installs the Debian packages whose probe (a command, or a file when it starts with
# a slash) is missing.
install_packages() {
  local pair missing=()
  for pair in "$@"; do
    local probe=${pair%%=*} package=${pair#*=}
    case $probe in
    /*) compgen -G "$probe" >/dev/null || missing+=("$package") ;;
    *) command -v "$probe" >/dev/null || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "these Debian packages are missing, and only root can install them: ${missing[*]}"
  apt_update_once
  step "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive quietly apt-install \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}
