//! The CustomResourceDefinition that users install is the one that this source makes.
//! `RINGMASTER_RECORD=1 cargo test -p ringmaster-plan` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test")]

use kube::CustomResourceExt;
use ringmaster_plan::crd::CacheCluster;

const COPIES: [&str; 2] = ["../../crds/cachecluster.yaml", "../../charts/ringmaster/files/cachecluster.yaml"];

#[test]
fn the_generated_resource_definition_is_up_to_date() {
    let made = serde_yaml::to_string(&CacheCluster::crd()).unwrap();
    for copy in COPIES {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(copy);
        if std::env::var_os("RINGMASTER_RECORD").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let present = std::fs::read_to_string(&path).unwrap();
        assert_eq!(present, made, "{copy} is out of date: run RINGMASTER_RECORD=1 cargo test -p ringmaster-plan");
    }
}
