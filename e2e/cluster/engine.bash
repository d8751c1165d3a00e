# Owns our own container engine, for machines without a Docker that runs: Debian's docker.io, unpacked into the cache
# and run in namespaces of its own (network, mounts, processes), so that its firewall rules, its mounts and its
# processes touch nothing outside and end all at once. In: Debian's package index. Out: `engine_start`, `engine_stop`,
# `engine_runs`, `engine_net` (the network namespace to enter) and the DOCKER_HOST that `engine_env` exports.
# shellcheck shell=bash
# shellcheck source=lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

engine_packages=(docker.io containerd runc tini)
engine_data=$state/docker
engine_socket=$state/docker.sock
engine_cgroup=ringmaster-e2e

# Settings of the whole machine that kubelets change, or that five nodes need raised; noted before, set back after.
machine_sysctls=(vm.overcommit_memory kernel.panic kernel.panic_on_oops fs.inotify.max_user_instances)

engine_dir() { echo "$cache/engine-$(cat /etc/debian_version - <<<"${engine_packages[*]}" | short_hash)"; }

# The packages are unpacked, not installed: the machine gets no service, and no package of its own is replaced.
engine_fetch() {
  install_packages '/lib/*/libdevmapper.so.1.02.1=libdevmapper1.02.1' \
    iptables=iptables nft=nftables ip=iproute2 jq=jq nsenter=util-linux pgrep=procps
  local dir
  dir=$(engine_dir)
  [ ! -d "$dir" ] || return 0
  step "unpacking Debian's ${engine_packages[*]}"
  rm -rf "$dir.partial"
  mkdir -p "$dir.partial/packages"
  apt_update_once
  (
    cd "$dir.partial/packages" || exit
    quietly engine-download apt-get download -q -o APT::Sandbox::User=root "${engine_packages[@]}"
  )
  local package
  for package in "$dir.partial"/packages/*.deb; do dpkg -x "$package" "$dir.partial"; done
  rm -r "$dir.partial/packages"
  mkdir "$dir.partial/client"
  ln -s ../usr/bin/docker "$dir.partial/client/docker"
  mv "$dir.partial" "$dir"
  remove_other_versions "$cache/engine" "$dir"
}

# The start time beside the process id tells our holder from a stranger that got its number later.
process_start() { cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null; }

engine_holder() {
  local pid start
  read -r pid start 2>/dev/null <"$state/engine.pid" || return 1
  [ -n "$start" ] && [ "$(process_start "$pid")" = "$start" ] && echo "$pid"
}

# The first process inside: the holder's only child, and process 1 of its own process namespace.
engine_inner() {
  local holder
  holder=$(engine_holder) && pgrep -o -P "$holder"
}

engine_net() {
  local inner
  inner=$(engine_inner) && echo "/proc/$inner/ns/net"
}

engine_env() {
  export DOCKER_HOST=unix://$engine_socket
  PATH=$(engine_dir)/client:$PATH
  # A client's own configuration (contexts, credentials, proxies) is not for this engine.
  export PATH DOCKER_CONFIG=$state/docker-client
  unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
}

engine_runs() { engine_inner >/dev/null && timeout 5 docker version >/dev/null 2>&1; }

engine_start() {
  [ "$(id -u)" = 0 ] || fail "our own engine needs root (namespaces, mounts, cgroups); with Docker or a KUBECONFIG it is not needed"
  [ ${#engine_socket} -le 100 ] || fail "the path of the engine's socket is too long for the kernel: $engine_socket; set XDG_CACHE_HOME to a shorter one"
  engine_env
  engine_launch
  if ! until_true 20 engine_runs; then
    step "the engine does not come up with the data it has; starting it with none"
    engine_stop
    rm -rf "$engine_data"
    engine_launch
    until_true 20 engine_runs || {
      tail -n 20 "$log_dir/engine.log" >&2
      fail "the engine does not come up; all of its output: $log_dir/engine.log"
    }
  fi
  # What a crash left behind: the nodes of a cluster that ended with its engine.
  engine_remove_containers
}

engine_remove_containers() {
  local left
  left=$(docker ps -aq)
  # shellcheck disable=SC2086 # one word per container
  [ -z "$left" ] || quietly engine-clean docker rm -f -v $left
  quietly engine-prune docker volume prune -f
}

engine_launch() {
  step "starting our own engine"
  sysctls_note
  rm -f "$engine_socket"
  # The shell notes who it is before it becomes the holder. 9>&-: the lock must not outlive this script in the engine.
  # shellcheck disable=SC2016 # the inner shell expands these
  setsid --fork bash -c '
    echo "$$ $(cut -d " " -f 22 /proc/$$/stat)" >"$0"
    exec unshare --net --mount --pid --fork --mount-proc --kill-child "$@"' \
    "$state/engine.pid" \
    "$here/engine-init" "$(engine_dir)" "$engine_data" "$engine_socket" "$engine_cgroup" \
    >"$log_dir/engine.log" 2>&1 </dev/null 9>&-
}

# Ends everything at once: the kernel kills all processes of a process namespace with its first one, and takes the
# namespaces' mounts, links and firewall rules away with them. Only the cgroups, which have no namespace, are left.
engine_stop() {
  local holder inner
  if holder=$(engine_holder); then
    engine_env
    # Gives back the disk of the nodes; an engine that cannot do it any more does so at its next start.
    if engine_runs; then (engine_remove_containers) || true; fi
    inner=$(engine_inner || true)
    # shellcheck disable=SC2086 # none or one
    kill -9 $inner "$holder" 2>/dev/null || true
    until_true 10 test ! -e "/proc/$holder" || fail "the engine (process $holder) does not end"
  fi
  rm -f "$state/engine.pid" "$engine_socket"
  until_true 10 cgroups_removed || step "some cgroups of the engine are left below /sys/fs/cgroup/*/$engine_cgroup"
  sysctls_restore
}

cgroups_removed() {
  local root
  for root in /sys/fs/cgroup/"$engine_cgroup" /sys/fs/cgroup/*/"$engine_cgroup"; do
    [ ! -d "$root" ] || find "$root" -depth -type d -exec rmdir {} + || return 1
  done
}

# The note is taken once per boot and kept until it is used: after a crash the machine still has our values, and the
# note still has its own.
sysctls_file() { echo "$state/sysctls-$(cat /proc/sys/kernel/random/boot_id)"; }

sysctls_note() {
  local file
  file=$(sysctls_file)
  if [ ! -f "$file" ]; then
    rm -f "$state"/sysctls-*
    sysctl "${machine_sysctls[@]}" >"$file.partial"
    mv "$file.partial" "$file"
  fi
  local instances
  instances=$(sysctl -n fs.inotify.max_user_instances)
  [ "$instances" -ge 1024 ] || sysctl -q -w fs.inotify.max_user_instances=1024
}

sysctls_restore() {
  local file
  file=$(sysctls_file)
  [ -f "$file" ] || return 0
  sysctl -q -p "$file" && rm -f "$file"
}
