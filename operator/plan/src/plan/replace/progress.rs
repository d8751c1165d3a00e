//! How far a spare is, in words, and what keeps it from starting.

use ringmaster_ring::{Member, MemberId};

use crate::names;
use crate::observed::{Pod, Trouble};
use crate::plan::view::View;

/// A StatefulSet has its pod within this time unless something refuses it.
const POD_CREATED_WITHIN_S: i64 = 15;

/// An image is pulled and volumes are mounted within this time, or somebody should look.
const CONTAINER_CREATED_WITHIN_S: i64 = 60;

/// Why a member that was made does not run, as far as Kubernetes says.
pub(in crate::plan) fn trouble(view: &View<'_>, id: MemberId) -> Option<Trouble> {
    let workload = view.workload(id)?;
    match (&workload.pod, &workload.set) {
        (Some(pod), _) => pod.trouble.clone().or_else(|| unmade_container(view, id, pod)),
        (None, Some(set)) if view.seconds_since(set.created_at) >= POD_CREATED_WITHIN_S => Some(Trouble {
            reason: "PodNotCreated".to_owned(),
            message: format!(
                "its StatefulSet has made no pod: a quota or an admission webhook may refuse it, see `kubectl describe statefulset {}`",
                view.name(id)
            ),
        }),
        (None, _) => None,
    }
}

/// Kubernetes says nothing of a volume that cannot be mounted but in events: all that the pod shows is time.
fn unmade_container(view: &View<'_>, id: MemberId, pod: &Pod) -> Option<Trouble> {
    let since = pod.starting_since?;
    (view.seconds_since(since) >= CONTAINER_CREATED_WITHIN_S).then(|| Trouble {
        reason: "ContainerCreating".to_owned(),
        message: format!(
            "its container is not made: a Secret or volume that is missing, or an image that takes long, see `kubectl describe pod {}`",
            names::pod(&view.spec.name, id)
        ),
    })
}

pub(in crate::plan) fn waiting_for(view: &View<'_>, id: MemberId, member: &Member) -> String {
    let name = view.name(id);
    if let Some(Trouble { reason, message }) = trouble(view, id) {
        return format!("{name} to start: {reason}: {message}");
    }
    let Some(status) = view.status(id) else {
        return match view.pod(id) {
            None => format!("{name} to be created"),
            Some(pod) if pod.node.is_none() => format!("{name} to be scheduled"),
            Some(_) => format!("{name} to start"),
        };
    };
    if member.boot() != Some(status.presence.boot) {
        return format!("{name} to join the ring");
    }
    let Some(sync) = status.sync else { return format!("{name} to be in sync, {} records behind", status.lag_records) };
    let mebibytes = |bytes: u64| bytes >> 20;
    let percent = sync.bytes_done.saturating_mul(100).checked_div(sync.bytes_total).unwrap_or(0).min(100);
    let left = sync.bytes_total.saturating_sub(sync.bytes_done);
    let seconds = left.checked_div(sync.bytes_per_second);
    let about = seconds.map(|seconds| format!(", about {seconds} s left")).unwrap_or_default();
    format!("{name} to sync: {percent}% ({} of {} MiB{about})", mebibytes(sync.bytes_done), mebibytes(sync.bytes_total))
}
