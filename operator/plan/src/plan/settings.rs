//! The ring's settings follow the resource. More copies are wanted by the ring only once every shard has them, and fewer
//! before any is taken away, so that no plan ever counts on copies that are not there.

use ringmaster_ring::{Command, FeatureLevel, Ring, Settings};

use super::draft::Draft;
use super::view::View;

pub(super) fn follow(view: &View<'_>, ring: &Ring, draft: &mut Draft) {
    let wanted = wanted(view, ring);
    if wanted != ring.settings {
        let why = format!("The settings of {} follow its specification.", view.spec.name);
        draft.step(
            super::Step::Propose(Command::Configure { if_version: ring.settings_version, settings: wanted }),
            why,
        );
    }
    raise_feature_level(ring, draft);
}

fn wanted(view: &View<'_>, ring: &Ring) -> Settings {
    let spec = view.spec;
    let has_them = ring.fewest_copies() >= usize::from(spec.copies);
    let copies = if spec.copies <= ring.settings.copies || has_them { spec.copies } else { ring.settings.copies };
    spec.settings(&Settings { copies, ..ring.settings.clone() })
}

/// What all members can do is used once they all can, and from then on: this is the end of a roll back.
fn raise_feature_level(ring: &Ring, draft: &mut Draft) {
    let levels = ring.members.values().filter(|m| m.is_active()).map(|m| m.present.as_ref().map(|p| p.feature_level));
    let lowest = levels.min().flatten().unwrap_or(FeatureLevel(0));
    if lowest > ring.feature_level {
        draft.step(
            super::Step::Propose(Command::RaiseFeatureLevel { to: lowest }),
            format!("Every member supports feature level {lowest}."),
        );
    }
}
