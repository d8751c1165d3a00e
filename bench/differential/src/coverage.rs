//! Which commands were compared, and whether any that both servers have was left out.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_engine::commands;

use crate::target::{Target, command};

/// Commands that are not generated, and why.
const LEFT_OUT: [(&str, &str); 1] = [("INFO", "tells of the process")];

/// Prints how often each command was compared. Returns those that both servers have and that were not, without those left out.
pub fn report(
    theirs: &mut dyn Target,
    compared: &BTreeMap<String, u64>,
    in_scripts: &BTreeMap<String, u64>,
) -> anyhow::Result<Vec<String>> {
    let list = theirs.ask(&[command(&[b"COMMAND", b"LIST"])])?;
    let list = list.iter().flat_map(|reply| reply.elements());
    let theirs: BTreeSet<String> = list.map(|name| String::from_utf8_lossy(name.text()).to_ascii_uppercase()).collect();
    let ours: Vec<String> = commands().map(|spec| spec.name.to_ascii_uppercase()).collect();
    let both: Vec<&String> = ours.iter().filter(|name| theirs.contains(*name)).collect();
    let count = |of: &BTreeMap<String, u64>, name: &str| of.get(name).copied().unwrap_or(0);
    println!("of {} commands that both have, each as often (and so often called by scripts):", both.len());
    let shown: Vec<String> = both
        .iter()
        .map(|name| format!("{} {} ({})", name.to_ascii_lowercase(), count(compared, name), count(in_scripts, name)))
        .collect();
    shown.chunks(6).for_each(|line| println!("  {}", line.join(", ")));
    for (name, reason) in LEFT_OUT {
        println!("not compared: {}, which {reason}", name.to_ascii_lowercase());
    }
    let is_left_out = |name: &str| LEFT_OUT.iter().any(|(other, _)| *other == name);
    Ok(both.into_iter().filter(|name| count(compared, name) == 0 && !is_left_out(name)).cloned().collect())
}
