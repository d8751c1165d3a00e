# Owns the node image of our own engine: what kind's own node image is (systemd, containerd, kubelet, kubeadm and the
# control plane's images), assembled from Debian packages and our Go tools. In: `tools.bash`, the files of kind's base
# image as they lie in the Go module cache, `node-image/`. Out: `node_image_build`, an archive in the cache, and
# `node_image_load`, the same in the running engine as `$node_image`.
#
# What it has beyond kind's: containerd makes the pod network of a node itself as soon as the node has its range of
# addresses (node-image/pod-network.conflist), so no network image is needed.
# shellcheck shell=bash
# shellcheck source=lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
# shellcheck source=tools.bash
source "$(dirname "${BASH_SOURCE[0]}")/tools.bash"

node_image_tools=(kubernetes etcd containerd runc cni coredns kind)
node_packages=(
  systemd                                     # runs the node
  conntrack iptables nftables iproute2 ethtool # kubelet, kube-proxy and Docker's address translation
  kmod libseccomp2 mount util-linux            # containers
  ca-certificates jq procps                    # kind's scripts
)

node_image_key() {
  local name
  {
    cat "${BASH_SOURCE[0]}" "$here/build-image" "$here"/node-image/* /etc/debian_version
    for name in "${node_image_tools[@]}"; do basename "$(tool_dir "$name")"; done
  } | short_hash
}

node_image_archive() { echo "$cache/node-image-$(node_image_key)"; }

node_image_build() {
  local archive
  archive=$(node_image_archive)
  [ ! -f "$archive" ] || return 0
  install_packages mmdebstrap=mmdebstrap xtables-nft-multi=iptables jq=jq gcc=gcc '/usr/lib/*/libc.a=libc6-dev'
  node_work=$cache/node-image-work
  rm -rf --one-file-system "$node_work"
  mkdir -p "$node_work/images"
  step "assembling the node image: Debian"
  node_rootfs
  step "assembling the node image: kind's files and the Kubernetes programs"
  node_programs
  step "assembling the node image: the control plane's images"
  node_component_images
  node_import_images
  step "assembling the node image: archive"
  tar -C "$node_work/rootfs" --numeric-owner -cf "$archive.partial" .
  mv "$archive.partial" "$archive"
  rm -rf --one-file-system "$node_work"
  remove_other_versions "$cache/node-image" "$archive"
}

node_rootfs() {
  local include suite
  include=$(IFS=,; echo "${node_packages[*]}")
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  # shellcheck disable=SC2016 # mmdebstrap's shell expands $1
  # As a tar, because mmdebstrap alone knows which of its temporary files do not belong to the system.
  quietly node-debian mmdebstrap --variant=minbase --include="$include" \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*' \
    "$suite" "$node_work/debian.tar"
  mkdir "$node_work/rootfs"
  tar -C "$node_work/rootfs" --exclude='./dev/*' -xf "$node_work/debian.tar"
  rm "$node_work/debian.tar"
}

# What kind's base image does in its Dockerfile.
node_programs() {
  local root=$node_work/rootfs kind_files
  kind_files=$(module_dir kind sigs.k8s.io/kind)/images/base/files
  # The module cache is read-only, and a copy of its modes would keep the owner from writing.
  cp -r --no-preserve=mode "$kind_files/." "$root/"
  chmod 0755 "$root"/usr/local/bin/* "$root"/kind/bin/*

  local units=$root/etc/systemd/system wants=$root/etc/systemd/system/multi-user.target.wants
  rm -f "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
    "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* \
    "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* \
    "$root"/etc/systemd/system/*.wants/*
  echo 'ReadKMsg=no' >>"$root/etc/systemd/journald.conf"
  ln -sfn /lib/systemd/systemd "$root/sbin/init"
  mkdir -p "$wants" "$root/etc/kubernetes/manifests" "$root/opt/cni/bin"
  local unit
  for unit in kubelet containerd undo-mount-hacks; do ln -sfn "/etc/systemd/system/$unit.service" "$wants/$unit.service"; done
  # Tells a machine-global kernel table about file formats; not a container's to do.
  ln -sfn /dev/null "$units/systemd-binfmt.service"

  install -m 0755 "$(tool_dir containerd)"/{containerd,containerd-shim-runc-v2,ctr} "$root/usr/local/bin/"
  install -m 0755 "$(tool_dir runc)/runc" "$root/usr/local/sbin/"
  install -m 0755 "$(tool_dir kubernetes)"/{kubeadm,kubelet,kubectl} "$root/usr/bin/"
  install -m 0755 "$(tool_dir cni)"/{host-local,loopback,ptp,portmap} "$root/opt/cni/bin/"

  # Containers inherit containerd's limits instead of the low ones that `ctr` writes down.
  "$(tool_dir containerd)/ctr" oci spec | jq 'del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
  # A machine without the capability SYS_RESOURCE cannot lower a process's score for the out-of-memory killer.
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
  grep -q 'restrict_oom_score_adj = true' "$root/etc/containerd/config.toml" || fail "kind's containerd configuration has changed: restrict_oom_score_adj is gone"
  cat "$here/node-image/containerd-network.toml" >>"$root/etc/containerd/config.toml"
  mkdir -p "$root/etc/containerd/network"
  cp "$here/node-image/pod-network.conflist" "$root/etc/containerd/network/"
  mkdir -p "$root/kind/manifests"
  cp "$here"/node-image/default-*.yaml "$root/kind/manifests/"
  echo "$kubernetes_version" >"$root/kind/version"
}

xtables_extensions() { dpkg --listfiles iptables | grep '/xtables$'; }

# Under the names that this kubeadm asks for; a program's version may be newer than its image's name.
node_component_images() {
  local kubernetes images image program xtables iptables=() builds=()
  kubernetes=$(tool_dir kubernetes)
  # One program under many names; its extensions are libraries that it opens by itself.
  xtables=$(command -v xtables-nft-multi)
  for program in {iptables,ip6tables}{,-save,-restore}; do iptables+=("/usr/sbin/$program=$xtables"); done
  iptables+=("$(xtables_extensions)=$(xtables_extensions)")
  gcc -Os -static -DVERSION=e2e -o "$node_work/pause" \
    "$(module_dir kubernetes k8s.io/kubernetes)/build/pause/linux/pause.c"
  mapfile -t images < <({
    "$kubernetes/kubeadm" config images list --kubernetes-version "$kubernetes_version"
    sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p' "$node_work/rootfs/etc/containerd/config.toml"
  } | sort -u)
  for image in "${images[@]}"; do
    local name program files
    name=$(basename "${image%:*}")
    case $name in
    kube-proxy) program=/usr/local/bin/kube-proxy files=("$program=$kubernetes/kube-proxy" "${iptables[@]}") ;;
    kube-*) program=/usr/local/bin/$name files=("$program=$kubernetes/$name") ;;
    etcd) program=/usr/local/bin/etcd files=("$program=$(tool_dir etcd)/server") ;;
    coredns) program=/coredns files=("$program=$(tool_dir coredns)/coredns") ;;
    pause) program=/pause files=("$program=$node_work/pause") ;;
    *) fail "kubeadm asks for an image that nothing here makes: $image" ;;
    esac
    "$here/build-image" --gzip --user 0:0 "$image" "$node_work/images/${#builds[@]}.tar" "$program" "${files[@]}" &
    builds+=($!)
  done
  local build
  for build in "${builds[@]}"; do wait "$build"; done
  [ ${#builds[@]} -ge 7 ] || fail "kubeadm names only ${#builds[@]} images: ${images[*]}"
}

# A containerd whose store lies in the node's file system, for as long as the import takes.
node_import_images() {
  local containerd socket=$node_work/containerd.sock
  containerd=$(tool_dir containerd)
  printf 'version = 3\ndisabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]\n' \
    >"$node_work/containerd.toml"
  "$containerd/containerd" --config "$node_work/containerd.toml" --address "$socket" \
    --root "$node_work/rootfs/var/lib/containerd" --state "$node_work/containerd-state" \
    >"$log_dir/node-containerd.log" 2>&1 </dev/null 9>&- &
  local pid=$! archive
  until_true 20 "$containerd/ctr" --address "$socket" version || fail "the temporary containerd does not come up: $log_dir/node-containerd.log"
  for archive in "$node_work"/images/*.tar; do
    quietly node-import "$containerd/ctr" --address "$socket" --namespace k8s.io images import --no-unpack "$archive"
  done
  kill "$pid"
  wait "$pid" || true
}

node_image_load() {
  node_image=$node_image_name:$(node_image_key)
  docker image inspect "$node_image" >/dev/null 2>&1 && return
  step "loading the node image into the engine"
  quietly node-load docker import \
    --change 'ENV container=docker' \
    --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' \
    "$(node_image_archive)" "$node_image"
  local other
  for other in $(docker images --format '{{.Repository}}:{{.Tag}}' "$node_image_name"); do
    [ "$other" = "$node_image" ] || docker rmi -f "$other" >/dev/null
  done
}
