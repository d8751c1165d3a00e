//! What the operator decides, without any client.
//!
//! Owns: the `CacheCluster` resource ([`crd`]), its validation ([`spec`]), the picture of the world that a decision is
//! made from ([`observed`]), the decision itself ([`plan()`]), and how a member looks as Kubernetes objects ([`build`]).
//! In: an [`Observed`] and the time. Out: a [`Plan`], which is steps to take now and the status to show.
//! Pure and total: nothing is remembered between two plans, so that an operator may be killed at any instruction.

pub mod build;
pub mod crd;
pub mod names;
pub mod observed;
mod plan;
mod quantity;
pub mod spec;
mod template;

pub use observed::Observed;
pub use plan::{AT_ONCE_MAX, CANARY_S, Guards, NewMember, Note, Obstacle, Plan, Step, plan, plan_refused};
pub use quantity::{Bytes, QuantityError};
pub use spec::{Problem, Spec};
pub use template::TemplateHash;

/// Wall time, as the caller read it.
pub use k8s_openapi::jiff::Timestamp;
