//! The table of commands beside Valkey's: arity, flags, key positions and ACL categories of every command that both have.

use std::collections::BTreeSet;

use ringmaster_engine::{Protocol, ReplyBuf, commands, write_command_info};

use crate::reply::Reply;
use crate::target::{Command, Target};

/// Flags that say how Valkey is built rather than how a command behaves.
const INTERNAL: [&str; 6] =
    ["no_mandatory_keys", "no_async_loading", "skip_monitor", "skip_slowlog", "skip_commandlog", "may_replicate"];
/// Flags that the table here has no word for yet.
const NOT_KEPT: [&str; 3] = ["allow_busy", "pubsub", "asking"];

/// What differs, a line each.
pub fn differences(theirs: &mut dyn Target) -> anyhow::Result<Vec<String>> {
    let names: Vec<&str> = commands().map(|spec| spec.name).collect();
    let ask: Command = ["COMMAND", "INFO"].iter().chain(&names).map(|word| word.as_bytes().to_vec()).collect();
    let theirs = theirs.ask(&[ask])?;
    let mut ours = ReplyBuf::new(Protocol::Resp2);
    write_command_info(&names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), &mut ours);
    let ours = Reply::read(&mut ours.as_bytes())?;
    let mut lines = Vec::new();
    for (name, (theirs, ours)) in names.iter().zip(theirs[0].elements().iter().zip(ours.elements())) {
        let (theirs, ours) = (theirs.elements(), ours.elements());
        if theirs.is_empty() {
            lines.push(format!("{name}: Valkey has no such command"));
            continue;
        }
        for (at, what) in [(1, "arity"), (3, "first key"), (4, "last key"), (5, "step")] {
            if theirs[at] != ours[at] {
                lines.push(format!("{name}: {what} is {} in Valkey, {} here", theirs[at], ours[at]));
            }
        }
        for (at, what) in [(2, "flags"), (6, "categories")] {
            let words = |of: &Reply| -> BTreeSet<String> {
                let words = of.elements().iter().map(|word| word.to_string().trim_start_matches('+').to_owned());
                words.filter(|word| !INTERNAL.contains(&word.as_str()) && !NOT_KEPT.contains(&word.as_str())).collect()
            };
            let (theirs, ours) = (words(&theirs[at]), words(&ours[at]));
            let missing: Vec<&String> = theirs.difference(&ours).collect();
            let extra: Vec<&String> = ours.difference(&theirs).collect();
            if !missing.is_empty() || !extra.is_empty() {
                lines.push(format!("{name}: {what} lack {missing:?} and have {extra:?} beside Valkey's"));
            }
        }
    }
    Ok(lines)
}
