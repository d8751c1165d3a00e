//! Whether a node fits what a node affinity requires, by the scheduler's rules.
//!
//! Terms are alternatives; the requirements of one term hold together. Preferences exclude no node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm};

pub(super) fn admits(affinity: &NodeAffinity, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let Some(required) = &affinity.required_during_scheduling_ignored_during_execution else { return true };
    required.node_selector_terms.iter().any(|term| term_admits(term, name, labels))
}

/// A term that requires nothing selects nothing.
fn term_admits(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name_of = |field: &str| (field == "metadata.name").then_some(name);
    let label_of = |key: &str| labels.get(key).map(String::as_str);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| holds(wanted, label_of(&wanted.key)))
        && fields.iter().all(|wanted| holds(wanted, name_of(&wanted.key)))
}

fn holds(wanted: &NodeSelectorRequirement, present: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_listed = present.is_some_and(|present| values.iter().any(|value| value == present));
    let compared = || {
        let present: i64 = present?.parse().ok()?;
        let bound: i64 = values.first()?.parse().ok()?;
        Some(present.cmp(&bound))
    };
    match wanted.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => present.is_some(),
        "DoesNotExist" => present.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        // The API server refuses others.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(required: serde_json::Value) -> bool {
        let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": required}});
        let labels = [("pool", "cache"), ("cpus", "8")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        admits(&serde_json::from_value(affinity).unwrap(), "node1", &BTreeMap::from(labels))
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> bool {
        fits(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    }

    #[test]
    fn each_operator_reads_as_the_scheduler_reads_it() {
        assert!(expression("pool", "In", &["web", "cache"]) && !expression("pool", "In", &["web"]));
        assert!(!expression("zone", "In", &["a"]) && expression("zone", "NotIn", &["a"]));
        assert!(expression("pool", "NotIn", &["web"]) && !expression("pool", "NotIn", &["cache"]));
        assert!(expression("pool", "Exists", &[]) && !expression("zone", "Exists", &[]));
        assert!(expression("zone", "DoesNotExist", &[]) && !expression("pool", "DoesNotExist", &[]));
        assert!(expression("cpus", "Gt", &["4"]) && !expression("cpus", "Gt", &["8"]));
        assert!(expression("cpus", "Lt", &["16"]) && !expression("zone", "Lt", &["16"]));
    }

    #[test]
    fn terms_are_alternatives_and_their_requirements_hold_together() {
        let web = json!({"key": "pool", "operator": "In", "values": ["web"]});
        let cache = json!({"key": "pool", "operator": "In", "values": ["cache"]});
        assert!(fits(json!([{"matchExpressions": [web]}, {"matchExpressions": [cache]}])));
        assert!(!fits(json!([{"matchExpressions": [web, cache]}])));
        assert!(!fits(json!([{}])) && !fits(json!([])));
        let this = json!({"key": "metadata.name", "operator": "In", "values": ["node1"]});
        assert!(
            fits(json!([{"matchFields": [this]}]))
                && !fits(json!([{"matchFields": [this], "matchExpressions": [web]}]))
        );
    }

    #[test]
    fn preferences_exclude_no_node() {
        let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web"]}]}},
        ]});
        assert!(admits(&serde_json::from_value(preferred).unwrap(), "node1", &BTreeMap::new()));
    }
}
