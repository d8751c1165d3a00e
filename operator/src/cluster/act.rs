//! Takes the steps of a plan. Every step may fail, be taken twice or be overtaken: the next plan is made from what is
//! there then.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource, ResourceExt};
use rand::Rng;
use ringmaster_plan::crd::{CacheCluster, CacheClusterStatus};
use ringmaster_plan::observed::{Birth, Identity};
use ringmaster_plan::{Note, Plan, Spec, Step, Timestamp, build, names, plan_refused};
use ringmaster_ring::Command;
use serde_json::json;

use super::refusals::Refusals;
use super::{ClusterError, Context, Sight, guards, reference, within};
use crate::members::{Endpoint, ProposeError};

/// What came of acting on a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Something was changed: the next step may be due at once.
    pub(crate) changed: bool,
    /// Something is under way.
    pub(crate) busy: bool,
    /// Something was refused, of this kind: it is tried again.
    pub(crate) failed: Option<&'static str>,
}

/// Whatever is refused, the other steps are taken and the status is written.
pub(super) async fn act(
    context: &Context,
    sight: &Sight,
    plan: &Plan,
    now: Timestamp,
) -> Result<Outcome, ClusterError> {
    let mut refusals = Refusals::default();
    let cluster = &sight.observed.cluster;
    let mut outcome = Outcome { busy: plan.busy, ..Outcome::default() };
    let image = sight.observed.identity.as_ref().map_or(&sight.observed.defaults.image, |identity| &identity.image);
    if let (Ok(spec), Some(wanted), None) =
        (Spec::of(cluster, image), plan.guards, &cluster.metadata.deletion_timestamp)
    {
        let (client, uid) = (&context.client, spec.uid.as_str());
        // Guards come before members: there is no moment in which a member may be evicted freely.
        let (services, budgets) = (build::services(&spec), build::budgets(&spec, wanted));
        outcome.changed |= guards::keep(client, uid, &services, &sight.services, &mut refusals).await;
        outcome.changed |= guards::keep(client, uid, &budgets, &sight.budgets, &mut refusals).await;
        let actor = Actor { context, sight, spec: &spec };
        let mut ring_answers = true;
        for note in &plan.steps {
            if !ring_answers && matches!(note.step, Step::Propose(_)) {
                continue;
            }
            match actor.take(&note.step).await {
                Ok(Taken::Done) => {
                    outcome.changed = true;
                    actor.tell(note).await;
                }
                Ok(Taken::Already) => {}
                // The ring changed meanwhile, or cannot be changed now. The other shards may still be.
                Ok(Taken::Refused(why)) => tracing::info!(cluster = %spec.name, step = %note.why, %why, "not taken"),
                // Each further proposal would wait for as long: other clusters, and what the status says, come first.
                Ok(Taken::Unanswered(why)) => {
                    ring_answers = false;
                    tracing::warn!(cluster = %spec.name, step = %note.why, %why, "the ring does not answer");
                }
                Err(error) => refusals.note(&note.why, error),
            }
        }
    }
    let obstacles = refusals.obstacles();
    let status = match obstacles.is_empty() {
        true => plan.status.clone(),
        // The same plan, made knowing what became of it.
        false => plan_refused(&sight.observed, obstacles, now).status,
    };
    write_status(&context.client, cluster, &status).await?;
    if let Some(loss) = new_loss(cluster.status.as_ref(), &status) {
        tracing::error!(cluster = %cluster.name_any(), "{}", loss.message);
        publish(context, cluster, EventType::Warning, &loss.reason, &loss.message, "DataLost".to_owned()).await;
    }
    outcome.failed = refusals.first().map(ClusterError::kind);
    Ok(outcome)
}

enum Taken {
    Done,
    Already,
    Refused(String),
    /// Whether it was taken is unknown.
    Unanswered(String),
}

struct Actor<'a> {
    context: &'a Context,
    sight: &'a Sight,
    spec: &'a Spec,
}

impl Actor<'_> {
    async fn take(&self, step: &Step) -> Result<Taken, ClusterError> {
        self.context.metrics.step(kind(step));
        match step {
            Step::CreateIdentity(identity) => self.create(identity_secret(self.spec, identity)).await,
            Step::RecordBirth(birth) => self.create(birth_secret(self.spec, birth)).await,
            Step::CreateMember(new) => self.create(build::stateful_set(self.spec, new)).await,
            Step::DeleteMember { member, uid } => {
                let api: Api<StatefulSet> = Api::namespaced(self.context.client.clone(), &self.spec.namespace);
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Background),
                    preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..DeleteParams::default()
                };
                let name = self.spec.member_name(*member);
                match within("delete statefulset", api.delete(&name, &params)).await {
                    Ok(_) => Ok(Taken::Done),
                    // It has gone, or another object has its name by now.
                    Err(ClusterError::Api(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {
                        Ok(Taken::Already)
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Form { founder, formation } => {
                let (Some(endpoint), Some(token)) = (self.sight.endpoints.get(founder), &self.sight.token) else {
                    return Ok(Taken::Refused("the founder has no address".to_owned()));
                };
                Ok(taken(self.context.members.form(endpoint, token, formation).await))
            }
            Step::Propose(command) => Ok(self.propose(command).await),
        }
    }

    /// Through the ring's leader where it is known, else through whoever knows the ring.
    async fn propose(&self, command: &Command) -> Taken {
        let Some(token) = &self.sight.token else {
            return Taken::Refused("the Secret with the ring's token is missing".to_owned());
        };
        let statuses = &self.sight.observed.statuses;
        let leader = statuses.values().find_map(|status| status.ring_leader);
        let knowing = statuses.iter().filter(|(_, status)| status.ring_epoch.is_some()).map(|(id, _)| *id);
        let through: Option<&Endpoint> =
            leader.into_iter().chain(knowing).find_map(|member| self.sight.endpoints.get(&member));
        match through {
            Some(endpoint) => taken(self.context.members.propose(endpoint, token, command).await),
            None => Taken::Refused("no member that knows the ring can be reached".to_owned()),
        }
    }

    /// Creates an object unless there is one of its name: never overwrites. One that is not this cluster's is no
    /// success.
    async fn create<K>(&self, object: K) -> Result<Taken, ClusterError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.spec.namespace);
        let params = PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
        match within("create", api.create(&params, &object)).await {
            Ok(_) => Ok(Taken::Done),
            Err(ClusterError::Api(kube::Error::Api(status))) if status.code == 409 => {
                match within("get", api.get_opt(&object.name_any())).await? {
                    Some(present) if !guards::belongs_to(&present, &self.spec.uid) => {
                        Err(ClusterError::name_taken(&object))
                    }
                    // Where it has gone since, the next look makes it.
                    Some(_) | None => Ok(Taken::Already),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// An event for what was done. Losing one changes nothing.
    async fn tell(&self, note: &Note) {
        tracing::info!(cluster = %self.spec.name, namespace = %self.spec.namespace, "{}", note.why);
        let cluster = &self.sight.observed.cluster;
        // The note is no part of an event's identity: without the member, two swaps would be one event.
        let action = about(&note.step);
        publish(self.context, cluster, EventType::Normal, kind(&note.step), &note.why, action).await;
    }
}

async fn publish(
    context: &Context,
    cluster: &CacheCluster,
    type_: EventType,
    reason: &str,
    note: &str,
    action: String,
) {
    let event = Event { type_, reason: reason.to_owned(), note: Some(note.to_owned()), action, secondary: None };
    let about = reference(cluster);
    let publish = context.recorder.publish(&event, &about);
    if let Ok(Err(error)) = tokio::time::timeout(super::REQUEST_TIMEOUT, publish).await {
        tracing::warn!(%error, "an event was not recorded");
    }
}

/// What the status says of data that was lost, where it did not say so before. It says so for as long as the cluster
/// lives; the event tells each loss once.
fn new_loss<'a>(former: Option<&CacheClusterStatus>, now: &'a CacheClusterStatus) -> Option<&'a Condition> {
    let is_loss = |condition: &&Condition| condition.type_ == "DataLost" && condition.status == "True";
    let known = former.and_then(|former| former.conditions.iter().find(is_loss));
    let loss = now.conditions.iter().find(is_loss)?;
    known.is_none_or(|known| known.message != loss.message).then_some(loss)
}

fn taken<T>(result: Result<T, ProposeError>) -> Taken {
    match result {
        Ok(_) => Taken::Done,
        Err(error @ ProposeError::Unknown(_)) => Taken::Unanswered(error.to_string()),
        Err(error) => Taken::Refused(error.to_string()),
    }
}

/// A step's kind: an event's reason and a metric's label.
pub(crate) fn kind(step: &Step) -> &'static str {
    match step {
        Step::CreateIdentity(_) => "IdentityWritten",
        Step::RecordBirth(_) => "BirthRecorded",
        Step::Form { .. } => "RingFormed",
        Step::CreateMember(_) => "MemberCreated",
        Step::DeleteMember { .. } => "MemberDeleted",
        Step::Propose(command) => match command {
            Command::Form(_) => "RingFormed",
            Command::ReserveMember(wanted) if wanted.replaces.is_some() => "ReplacementBegun",
            Command::ReserveMember(_) => "MemberReserved",
            Command::Place { .. } => "MemberPlaced",
            Command::Announce { .. } => "MemberAnnounced",
            Command::Leave(_) => "MemberLeaving",
            Command::Stay(_) => "MemberStaying",
            Command::Retire { .. } => "MemberRetired",
            Command::Forget { .. } => "MemberForgotten",
            Command::Gone(_) => "MemberGone",
            Command::Configure { .. } => "Configured",
            Command::RaiseFeatureLevel { .. } => "FeatureLevelRaised",
            Command::Shard { .. } => "HandoverBegun",
        },
    }
}

fn about(step: &Step) -> String {
    match step {
        Step::CreateIdentity(identity) => format!("Generation{}", identity.generation),
        Step::RecordBirth(birth) => format!("Generation{}", birth.generation),
        Step::Form { formation, .. } => format!("Generation{}", formation.generation),
        Step::CreateMember(new) => format!("Member{}", new.member),
        Step::DeleteMember { member, .. } => format!("Member{member}"),
        Step::Propose(command) => match command {
            Command::ReserveMember(wanted) => format!("Member{}", wanted.if_next_serial),
            Command::Place { member, .. }
            | Command::Announce { member, .. }
            | Command::Retire { member, .. }
            | Command::Forget { member, .. } => format!("Member{member}"),
            Command::Leave(holder) | Command::Stay(holder) | Command::Gone(holder) => {
                format!("Member{}", holder.member)
            }
            Command::Shard { shard, if_epoch, .. } => format!("Shard{shard}Epoch{if_epoch}"),
            Command::Form(_) | Command::Configure { .. } | Command::RaiseFeatureLevel { .. } => "Ring".to_owned(),
        },
    }
}

fn identity_secret(spec: &Spec, identity: &Identity) -> Secret {
    let Identity { uuid, generation, first_serial, image } = identity;
    let token: [u8; 32] = rand::thread_rng().r#gen();
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = [
        ("uuid", uuid.to_string()),
        ("generation", generation.to_string()),
        ("firstSerial", first_serial.to_string()),
        ("image", image.clone()),
        ("token", token),
    ];
    secret(spec, names::identity_secret(&spec.name, &spec.uid, *generation), &fields)
}

fn birth_secret(spec: &Spec, birth: &Birth) -> Secret {
    let Birth { generation, founder, voter } = birth;
    let fields =
        [("generation", generation.to_string()), ("founder", founder.to_string()), ("voter", voter.to_string())];
    secret(spec, names::birth_secret(&spec.name, &spec.uid, *generation), &fields)
}

fn secret(spec: &Spec, name: String, fields: &[(&str, String)]) -> Secret {
    let data = fields.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.clone().into_bytes())));
    Secret {
        metadata: build::owned(spec, name),
        data: Some(data.collect()),
        immutable: Some(true),
        type_: Some("ringmaster.dev/ring".to_owned()),
        ..Secret::default()
    }
}

/// Compared first: a status that says what is there already is not written.
async fn write_status(
    client: &Client,
    cluster: &CacheCluster,
    status: &CacheClusterStatus,
) -> Result<(), ClusterError> {
    if cluster.status.as_ref() == Some(status) || cluster.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<CacheCluster> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": CacheCluster::api_version(&()),
        "kind": CacheCluster::kind(&()),
        "status": status,
    });
    let params = PatchParams::apply(names::MANAGER).force();
    match within("patch status", api.patch_status(&cluster.name_any(), &params, &Patch::Apply(&patch))).await {
        // Deleted meanwhile.
        Err(ClusterError::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lost: &str, message: &str) -> CacheClusterStatus {
        let condition = json!({
            "type": "DataLost", "status": lost, "reason": "NoCopyLeft", "message": message,
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        });
        CacheClusterStatus { conditions: vec![serde_json::from_value(condition).unwrap()], ..Default::default() }
    }

    #[test]
    fn each_loss_is_told_once() {
        let (none, one, two) = (status("False", ""), status("True", "1 times"), status("True", "2 times"));
        assert!(new_loss(None, &one).is_some() && new_loss(Some(&none), &one).is_some());
        assert!(new_loss(Some(&one), &two).is_some());
        assert!(new_loss(Some(&one), &one).is_none() && new_loss(None, &none).is_none());
    }
}
