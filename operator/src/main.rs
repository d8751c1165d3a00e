//! `ringmaster`: the controller, and the commands for people.

mod cluster;
mod commands;
mod controller;
mod lease;
mod members;
mod metrics;
mod playground;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs caches whose members are replaced before they are removed.
#[derive(Debug, Parser)]
#[command(name = "ringmaster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cache here, with processes instead of pods.
    Playground(playground::Playground),
    /// Run the controller on Kubernetes.
    Run(commands::Run),
    /// Show what would be done about a cluster now, and do nothing.
    Plan(commands::Plan),
    /// Show a cluster: its members, what is being replaced, and its conditions.
    Status(commands::Target),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Run a member of a playground.
    #[command(hide = true, disable_help_flag = true)]
    Node {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(options) => commands::run(options),
        Command::Plan(options) => commands::plan(&options),
        Command::Status(target) => commands::status(&target),
        Command::Crd => commands::crd(),
        Command::Playground(options) => playground::run(options),
        Command::Node { args } => return playground::node(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmaster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
