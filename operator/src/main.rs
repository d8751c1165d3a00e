//! `ringmaster`: the controller, and the commands for people.

mod cluster;
mod commands;
mod controller;
mod lease;
mod members;
mod metrics;

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
    /// Run the controller on Kubernetes.
    Run(commands::Run),
    /// Show what would be done about a cluster now, and do nothing.
    Plan(commands::Target),
    /// Show a cluster: its members, what is being replaced, and its conditions.
    Status(commands::Target),
    /// Print the CustomResourceDefinition.
    Crd,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(options) => commands::run(options),
        Command::Plan(target) => commands::plan(&target),
        Command::Status(target) => commands::status(&target),
        Command::Crd => commands::crd(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmaster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
