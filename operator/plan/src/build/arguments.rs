//! What a member is told on its command line about itself and about the user's spec, wherever it runs. Addresses, ports
//! and paths are added by what starts it.

use crate::Spec;
use crate::crd::EvictionPolicy;
use crate::plan::NewMember;

#[must_use]
pub fn member_arguments(spec: &Spec, new: &NewMember) -> Vec<String> {
    let mut arguments = vec![
        format!("--member={}", new.member),
        format!("--cluster={}", spec.uid),
        format!("--generation={}", new.generation),
        format!("--cluster-mode={}", spec.cluster_mode),
    ];
    if let Some(shard) = new.shard {
        arguments.push(format!("--shard={shard}"));
        arguments.push(format!("--memory-max={}", spec.memory_max.0));
        arguments.push(format!("--policy={}", policy(spec.policy)));
    }
    if let Some(limit) = spec.sync_bytes_per_second {
        arguments.push(format!("--sync-bytes-per-second={}", limit.0));
    }
    if let Some(threads) = spec.threads {
        arguments.push(format!("--threads={threads}"));
    }
    arguments
}

fn policy(policy: EvictionPolicy) -> String {
    serde_json::to_value(policy).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
