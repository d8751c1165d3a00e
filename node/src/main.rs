//! The data node. Everything is in the library, so that the playground can run the same member.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringmaster_node::run(std::env::args_os())
}
