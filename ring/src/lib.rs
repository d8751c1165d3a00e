//! The ring: the one document that says who serves what, and the rules by which it may change.
//!
//! Owns: [`Ring`], the [`Command`]s that change it, [`Ring::apply`], and the names of things in it.
//! In: a document and a command. Out: the next document, or a [`Rejection`] that says which rule it would break.
//! Pure: no clock, no randomness, no I/O; `apply` is deterministic and total.

mod apply;
mod check;
mod command;
mod document;
mod ids;
mod rules;
mod status;
mod voters;

pub use check::*;
pub use command::*;
pub use document::*;
pub use ids::*;
pub use rules::*;
pub use status::*;
pub use voters::*;
