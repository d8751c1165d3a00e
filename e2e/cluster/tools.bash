# Owns the programs that are built from pinned Go modules (tools/NAME/go.mod names them with `tool` directives, go.sum
# pins their content). In: those modules. Out: `tool_dir NAME`, the cached folder with a module's programs, and
# `build_tools NAME...`, which fills it. The modules are apart because their dependencies disagree.
# shellcheck shell=bash
# shellcheck source=lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

tool_build_flags() {
  local package=k8s.io/component-base/version
  local version=${kubernetes_version#v}
  local minor=${version#*.}
  # Without these a node reports itself as v0.0.0, which kubeadm refuses.
  local stamp="-X $package.gitVersion=$kubernetes_version -X $package.gitMajor=${version%%.*} -X $package.gitMinor=${minor%%.*}"
  local flags=(-trimpath -buildvcs=false -mod=readonly)
  case $1 in
  kubernetes) flags+=(-ldflags "-s -w $stamp") ;;
  runc) flags+=(-ldflags "-s -w" -tags seccomp) ;;
  *) flags+=(-ldflags "-s -w") ;;
  esac
  printf '%s\n' "${flags[@]}"
}

# runc alone needs C: its seccomp filters come from libseccomp, and its first steps in a container are C.
tool_cgo() { if [ "$1" = runc ]; then echo 1; else echo 0; fi; }

tool_dir() {
  local module=$here/tools/$1
  local key
  key=$({
    go env GOVERSION GOARCH
    tool_build_flags "$1"
    cat "$module/go.mod" "$module/go.sum"
  } | short_hash)
  echo "$cache/tools/$1-$key"
}

# module_dir NAME MODULE: where the Go module cache holds the files of a module that tools/NAME uses.
module_dir() { (cd "$here/tools/$1" && go mod download "$2" && go list -m -f '{{.Dir}}' "$2"); }

build_tools() {
  command -v go >/dev/null || fail "Go is missing; it builds the cluster's programs (see tools/*/go.mod for the version)"
  mkdir -p "$cache/tools" "$cache/bin"
  local name dir flags
  for name in "$@"; do
    dir=$(tool_dir "$name")
    if [ ! -d "$dir" ]; then
      step "building the Go tools of $name"
      mapfile -t flags < <(tool_build_flags "$name")
      rm -rf "$dir.partial"
      mkdir -p "$dir.partial"
      (
        cd "$here/tools/$name" || exit
        CGO_ENABLED=$(tool_cgo "$name") quietly "build-$name" nice -n 5 go build "${flags[@]}" -o "$dir.partial/" tool
      )
      mv "$dir.partial" "$dir"
      remove_other_versions "$cache/tools/$name" "$dir"
    fi
    # What a person or a test calls by name; the rest is called by its place.
    case $name in
    kubernetes) ln -sfn "$dir/kubectl" "$cache/bin/kubectl" ;;
    helm | kind) ln -sfn "$dir/$name" "$cache/bin/$name" ;;
    esac
  done
}
