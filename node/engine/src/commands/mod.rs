//! What commands do, one file a family.
//!
//! A command gets its arguments, name included and arity checked, and a [`Txn`] that holds the lanes of its keys. It first finds out what
//! can be refused, then changes keys through [`Txn::apply`], then replies. A refusal is a [`CommandError`], whose text is the reply.

mod bits;
mod blocking;
mod dump;
mod error;
mod expiry;
mod glob;
mod hashes;
mod hyperloglogs;
mod keys;
mod lists;
mod objects;
mod options;
mod scan;
mod server;
mod sets;
mod sorted_set_operations;
mod sorted_set_ranges;
mod sorted_sets;
mod stream_groups;
mod stream_info;
mod stream_options;
mod streams;
mod strings;

use std::fmt;

use crate::engine::Txn;
use crate::resp::ReplyBuf;

pub(crate) use error::CommandError;
pub use glob::matches as matches_glob;

/// A command on data, as the table holds it. Only [`Engine::execute`](crate::Engine::execute) can call it.
#[derive(Clone, Copy)]
pub struct DataCommand(pub(crate) DataFn);

pub(crate) type DataFn = fn(&mut Txn<'_>, &[&[u8]], &mut ReplyBuf) -> Outcome;
pub(crate) type Outcome = Result<(), CommandError>;

impl fmt::Debug for DataCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataCommand")
    }
}

/// The functions that the table names.
pub(crate) mod run {
    pub(crate) use super::bits::*;
    pub(crate) use super::blocking::*;
    pub(crate) use super::dump::*;
    pub(crate) use super::hashes::*;
    pub(crate) use super::hyperloglogs::*;
    pub(crate) use super::keys::*;
    pub(crate) use super::lists::*;
    pub(crate) use super::objects::*;
    pub(crate) use super::scan::*;
    pub(crate) use super::server::*;
    pub(crate) use super::sets::*;
    pub(crate) use super::sorted_set_operations::*;
    pub(crate) use super::sorted_set_ranges::*;
    pub(crate) use super::sorted_sets::*;
    pub(crate) use super::stream_groups::*;
    pub(crate) use super::stream_info::*;
    pub(crate) use super::streams::*;
    pub(crate) use super::strings::*;
}
