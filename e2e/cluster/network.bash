# Owns the way from pod to pod on our own engine: the engine's bridge is every node's default gateway, and it gets one
# route per node, to that node's range of pod addresses. Nodes need no routes of their own, so a restarted node has
# lost none. In: a running cluster. Out: `route_pods`, which is to be repeated when a node may have a new address.
# shellcheck shell=bash
# shellcheck source=lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
# shellcheck source=engine.bash
source "$(dirname "${BASH_SOURCE[0]}")/engine.bash"

route_pods() {
  local network range address
  network=$(engine_net)
  until_true 60 pod_ranges_known || fail "the nodes do not get their ranges of pod addresses"
  while read -r range address; do
    nsenter --net="$network" ip route replace "$range" via "$address"
  done < <(pod_ranges)
}

# One line for each node: its range of pod addresses, its address.
pod_ranges() {
  "$here/exec" kubectl get nodes -o 'jsonpath={range .items[*]}{.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}'
}

pod_ranges_known() { [ "$(pod_ranges | grep -c '/.* .*\.')" = "$(grep -c '^- role:' "$e2e/kind.yaml")" ]; }
