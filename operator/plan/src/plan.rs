//! The decision: from an [`Observed`] and the time to the steps that may be taken now and the status to show.
//!
//! Total: whatever is observed leads to a plan. Nothing is remembered: a plan made twice from the same picture is the
//! same plan, and each of its steps is harmless when it was taken before, or by somebody else meanwhile, because ring
//! commands are conditional on what they were decided on and objects are created once and deleted by UID.

mod birth;
mod copies;
mod draft;
mod reasons;
mod remains;
mod replace;
mod settings;
mod status;
mod view;

use ringmaster_ring::{Command, Formation, Generation, MemberId, ShardId};

use crate::crd::CacheClusterStatus;
use crate::{Observed, Problem, Spec, Timestamp};

use crate::observed::{Birth, Identity};
use draft::Draft;
pub use draft::Obstacle;
pub use replace::{AT_ONCE_MAX, CANARY_S};
use view::View;

/// What to do now, in this order, and what to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub steps: Vec<Note>,
    pub status: CacheClusterStatus,
    /// Something is under way: look again soon.
    pub busy: bool,
    /// The Services and disruption budgets to keep; none where the resource cannot be read.
    pub guards: Option<Guards>,
}

/// A step, and why it is taken: a sentence for events, logs and `ringmaster plan`.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub step: Step,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create the Secret of a generation, with a token drawn at random. Never overwrite one.
    CreateIdentity(Identity),
    /// Create the birth Secret of a generation. Never overwrite one.
    RecordBirth(Birth),
    /// Ask the founder to form the ring.
    Form { founder: MemberId, formation: Box<Formation> },
    /// Propose a change of the ring.
    Propose(Command),
    /// Create a member's StatefulSet.
    CreateMember(NewMember),
    /// Delete a member's StatefulSet, if it still has this UID.
    DeleteMember { member: MemberId, uid: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    pub member: MemberId,
    pub shard: Option<ShardId>,
    pub generation: Generation,
    /// Two copies of a shard must not share a node. Where nodes are scarce they only should not.
    pub own_node_required: bool,
}

/// What protects the members as they are: an object for each shard, whether it is complete or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Copies that evictions must leave ready.
    pub copies: u16,
    pub witness: bool,
}

/// Decides what to do about a cluster.
#[must_use]
pub fn plan(seen: &Observed, now: Timestamp) -> Plan {
    plan_refused(seen, Vec::new(), now)
}

/// The same plan, made knowing that some of its steps were refused: the status says so.
#[must_use]
pub fn plan_refused(seen: &Observed, refused: Vec<Obstacle>, now: Timestamp) -> Plan {
    let spec = match Spec::of(&seen.cluster, image_in_force(seen)) {
        Ok(spec) => spec,
        Err(problems) => return unreadable(seen, &problems, now),
    };
    let view = View::new(seen, &spec, now);
    let mut draft = Draft::new(view.ring);
    if seen.cluster.metadata.deletion_timestamp.is_none() {
        match view.ring {
            None => birth::give(&view, &mut draft),
            Some(ring) if birth::misses_identity(&view, ring) => birth::say_identity_is_missing(&view, &mut draft),
            Some(ring) => {
                settings::follow(&view, ring, &mut draft);
                replace::go_on(&view, ring, &mut draft);
                copies::follow(&view, ring, &mut draft);
                replace::begin(&view, ring, &mut draft);
                remains::clear(&view, ring, &mut draft);
            }
        }
    }
    draft.obstacles.extend(refused);
    let status = status::report(&view, &draft);
    let guards = Guards {
        copies: view.ring.map_or(spec.copies, |ring| ring.settings.copies),
        witness: spec.wants_witness() || view.ring.is_some_and(|ring| view.seats(ring, None).next().is_some()),
    };
    Plan { busy: draft.is_busy(), steps: draft.steps, status, guards: Some(guards) }
}

/// What members are made from where the resource names no image. Written down at birth; where that was lost, what the
/// status says is in force, before what this operator brings.
fn image_in_force(seen: &Observed) -> &str {
    let told = seen.cluster.status.as_ref().map(|status| status.image.as_str()).filter(|image| !image.is_empty());
    match (&seen.identity, &seen.ring) {
        (Some(identity), _) => &identity.image,
        (None, Some(_)) => told.unwrap_or(&seen.defaults.image),
        (None, None) => &seen.defaults.image,
    }
}

/// A resource that cannot be read changes nothing but what is said about it.
fn unreadable(seen: &Observed, problems: &[Problem], now: Timestamp) -> Plan {
    Plan { steps: Vec::new(), status: status::refusal(seen, problems, now), busy: false, guards: None }
}
