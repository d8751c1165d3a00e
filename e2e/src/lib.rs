//! End-to-end tests on a real Kubernetes.
//!
//! In: a KUBECONFIG with the chart's images where its nodes find them (`run` sees to both). Out: claims that hold, and a
//! table of figures. `sampler` watches copies from inside the cluster, `../clients` are the ledgers that write there; the
//! rest is the language in which `../tests` tell what happens: a bed (chart, cluster, clients), runs under load, figures.

// `value["field"]` of a JSON value gives null where there is none; nothing else is indexed here.
#![allow(clippy::indexing_slicing)]

pub mod bed;
pub mod cache;
pub mod figures;
pub mod kubernetes;
pub mod run;
pub mod sampler;
pub mod settings;
pub mod tools;
