//! The Service that clients use, and the one by which members find each other.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::owned;
use crate::{Spec, names};

#[must_use]
pub fn services(spec: &Spec) -> [Service; 2] {
    let mut data = names::selector(&spec.uid);
    data.insert(names::LABEL_HOLDS.to_owned(), names::HOLDS_DATA.to_owned());
    let client =
        ServiceSpec { type_: Some("ClusterIP".to_owned()), ..selecting(data, vec![port("redis", names::CLIENT_PORT)]) };
    let members = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        // Members are not ready before the ring is formed, and the ring is not formed before members find each other.
        publish_not_ready_addresses: Some(true),
        ..selecting(
            names::selector(&spec.uid),
            vec![port("redis", names::CLIENT_PORT), port("peer", names::PEER_PORT), port("http", names::HTTP_PORT)],
        )
    };
    [(names::client_service(&spec.name), client), (names::member_service(&spec.name), members)]
        .map(|(name, service)| Service { metadata: owned(spec, name), spec: Some(service), ..Service::default() })
}

fn selecting(selector: BTreeMap<String, String>, ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec { selector: Some(selector), ports: Some(ports), ..ServiceSpec::default() }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
