# The project's commands. `just` lists them; CI runs the same ones.

default:
    @just --list

# Everything that needs no cluster.
test:
    cargo test --workspace

# Formatting, lints, and each pure crate alone, so that feature unification cannot hide a forbidden dependency.
lint:
    ./ci/lint

# A thousand seeds of the simulation.
sim seeds="0..1000":
    cargo run --release -p ringmaster-sim -- --seeds {{seeds}}

# The same commands to Valkey and to a node, every reply and what is left compared; brings Valkey from Debian.
differential seeds="0..50":
    cargo run --release -p ringmaster-differential -- --seeds {{seeds}}

# The same with a cluster whose primary is handed over every second.
differential-handovers seeds="0..8":
    cargo build --release -p ringmaster-operator -p ringmaster-differential
    cargo run --release -p ringmaster-differential -- --cluster --seeds {{seeds}}

# The end-to-end tests, on the cluster that KUBECONFIG names or on one made here.
e2e *args:
    e2e/run {{args}}

# Writes the generated files anew.
generate:
    cargo run -p ringmaster-operator -- crd > crds/cachecluster.yaml
    cp crds/cachecluster.yaml charts/ringmaster/files/cachecluster.yaml

# Undeclared .rs files and generated files that are out of date.
tidy:
    ./ci/tidy

# Known vulnerabilities in dependencies; needs the network.
advisories:
    cargo deny check advisories

# Fuzzes one of fuzz/fuzz_targets for so many seconds.
fuzz target seconds="300":
    fuzz/run {{target}} {{seconds}}

# The crates with `unsafe` code under AddressSanitizer, and their keyspace under valgrind.
asan *test:
    ci/asan {{test}}

valgrind *test:
    ci/valgrind {{test}}
