//! What could not be done in one look at a cluster: one step that is refused keeps no other one from being taken, and
//! the status says so.

use ringmaster_plan::Obstacle;

use super::ClusterError;

/// More than these are counted, not told: they are refused for the same reason.
const TOLD_MAX: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Vec<Obstacle>,
    untold: usize,
    first: Option<ClusterError>,
}

impl Refusals {
    /// Notes that `what`, a whole sentence, was not done.
    pub(super) fn note(&mut self, what: &str, error: ClusterError) {
        tracing::warn!(%what, %error, "not done: will be tried again");
        if self.told.len() < TOLD_MAX {
            self.told.push(Obstacle { reason: reason(&error), message: format!("not done: {what} {}", said(&error)) });
        } else {
            self.untold += 1;
        }
        self.first.get_or_insert(error);
    }

    /// For the status. The same refusals read the same each time.
    pub(super) fn obstacles(&self) -> Vec<Obstacle> {
        let more = (self.untold > 0).then(|| Obstacle {
            reason: "StepsRefused".to_owned(),
            message: format!("and {} more steps are not done", self.untold),
        });
        self.told.iter().cloned().chain(more).collect()
    }

    /// For the metrics.
    pub(super) fn first(&self) -> Option<&ClusterError> {
        self.first.as_ref()
    }
}

fn said(error: &ClusterError) -> String {
    match error {
        ClusterError::Api(kube::Error::Api(status)) => format!("The API server refuses: {}", status.message),
        other => format!("{other}"),
    }
}

/// One CamelCase word: the API server's own, where it has one.
fn reason(error: &ClusterError) -> String {
    match error {
        ClusterError::NameTaken { .. } => "NameTaken".to_owned(),
        ClusterError::Api(kube::Error::Api(status)) if is_word(&status.reason) => status.reason.clone(),
        ClusterError::Api(_) | ClusterError::Undecodable { .. } => "StepRefused".to_owned(),
        ClusterError::Timeout(_) => "ApiTimeout".to_owned(),
    }
}

/// As conditions demand of a reason.
fn is_word(reason: &str) -> bool {
    reason.starts_with(|c: char| c.is_ascii_alphabetic()) && reason.chars().all(|c| c.is_ascii_alphanumeric())
}
