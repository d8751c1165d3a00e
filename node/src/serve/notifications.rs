//! Keyspace notifications: changes of keys as messages, to subscribers of this member (`notify-keyspace-events`).
//!
//! Owns which classes are on, and what each change is called. Effects are told, so a command that changes nothing says nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use ringmaster_engine::{Cause, Changed, What};

use super::pubsub::PubSub;

/// The letters of the setting, each a bit by its place; `A` stands for all classes but `m` and `n`.
const LETTERS: &[u8] = b"KEg$lshzxetdmn";
const ALL: &[u8] = b"g$lshzxetd";

#[derive(Debug, Default)]
pub(super) struct Notifications(AtomicU32);

impl Notifications {
    pub(super) fn are_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Sets the classes by their letters. False if there is another letter.
    pub(super) fn set(&self, letters: &[u8]) -> bool {
        let mut bits = 0;
        for letter in letters {
            match *letter {
                b'A' => bits |= ALL.iter().copied().fold(0, |bits, letter| bits | bit(letter)),
                letter if LETTERS.contains(&letter) => bits |= bit(letter),
                _ => return false,
            }
        }
        // Without a channel there is nobody to tell.
        let has_channel = bits & (bit(b'K') | bit(b'E')) != 0;
        self.0.store(if has_channel { bits } else { 0 }, Ordering::Relaxed);
        true
    }

    pub(super) fn letters(&self) -> String {
        let bits = self.0.load(Ordering::Relaxed);
        let all = ALL.iter().all(|letter| bits & bit(*letter) != 0);
        let on = LETTERS.iter().filter(|letter| bits & bit(**letter) != 0 && !(all && ALL.contains(letter)));
        let mut text: String = on.map(|letter| char::from(*letter)).collect();
        if all {
            text.insert(0, 'A');
        }
        text
    }

    pub(super) fn tell(&self, changed: &Changed<'_>, pubsub: &PubSub) {
        let bits = self.0.load(Ordering::Relaxed);
        let Some(key) = changed.key.filter(|_| bits != 0) else { return };
        for (class, event) in events(changed) {
            if bits & bit(class) == 0 {
                continue;
            }
            if bits & bit(b'K') != 0 {
                let mut channel = format!("__keyspace@{}__:", changed.db).into_bytes();
                channel.extend_from_slice(key);
                pubsub.publish(&channel, event.as_bytes());
            }
            if bits & bit(b'E') != 0 {
                pubsub.publish(format!("__keyevent@{}__:{event}", changed.db).as_bytes(), key);
            }
        }
    }
}

fn bit(letter: u8) -> u32 {
    LETTERS.iter().position(|other| *other == letter).map_or(0, |place| 1 << place)
}

/// What a change is called, and the class of each name.
fn events(changed: &Changed<'_>) -> Vec<(u8, &'static str)> {
    let command = match changed.cause {
        Cause::Expired => return vec![(b'x', "expired")],
        Cause::Evicted => return vec![(b'e', "evicted")],
        Cause::Primary => return Vec::new(),
        Cause::Command(name) => name,
    };
    let sorted_set = command.starts_with('z') || command.starts_with("bz") || command.starts_with("geo");
    let list = matches!(command, "linsert" | "lset" | "lrem" | "ltrim")
        || ["push", "pop", "move"].iter().any(|part| command.contains(part))
            && !sorted_set
            && command != "spop"
            && command != "smove";
    let class = match command {
        _ if sorted_set => b'z',
        _ if list => b'l',
        _ if command.starts_with('h') => b'h',
        _ if matches!(command, "sadd" | "srem" | "spop" | "smove")
            || command.ends_with("store") && command.starts_with('s') =>
        {
            b's'
        }
        _ if command.starts_with('x') => b't',
        _ => b'$',
    };
    let mut events = match changed.what {
        What::Put { expires } => {
            let name = match command {
                "incr" | "decr" | "incrby" | "decrby" => "incrby",
                "incrbyfloat" | "append" | "setrange" | "setbit" | "pfadd" => command,
                "rename" | "renamenx" => return vec![(b'g', "rename_to")],
                "copy" => return vec![(b'g', "copy_to")],
                "restore" => return vec![(b'g', "restore")],
                "getex" | "expire" | "pexpire" => return vec![(b'g', "expire")],
                _ => "set",
            };
            let mut events = vec![(b'$', name)];
            if expires && name == "set" {
                events.push((b'g', "expire"));
            }
            return events;
        }
        What::Splice => vec![(b'$', command)],
        What::Del if matches!(command, "rename" | "renamenx") => return vec![(b'g', "rename_from")],
        What::Del if changed.is_gone => return vec![(b'g', "del")],
        What::Del | What::Other => return Vec::new(),
        What::Expire => vec![(b'g', "expire")],
        What::Persist => vec![(b'g', "persist")],
        What::Replace => vec![(b'l', "lset")],
        What::Add { at_start } => vec![(
            class,
            match command {
                "lpushx" => "lpush",
                "rpushx" => "rpush",
                "hmset" | "hsetnx" => "hset",
                "zincrby" => "zincr",
                "lmove" | "blmove" | "rpoplpush" | "brpoplpush" => {
                    if at_start {
                        "lpush"
                    } else {
                        "rpush"
                    }
                }
                "smove" => "sadd",
                command => command,
            },
        )],
        What::Remove { at_start } => vec![(
            class,
            match command {
                "blpop" => "lpop",
                "brpop" => "rpop",
                "bzpopmin" => "zpopmin",
                "bzpopmax" => "zpopmax",
                "lmpop" | "blmpop" | "lmove" | "blmove" | "rpoplpush" | "brpoplpush" => {
                    if at_start {
                        "lpop"
                    } else {
                        "rpop"
                    }
                }
                "smove" => "srem",
                command => command,
            },
        )],
    };
    if changed.is_gone {
        events.push((b'g', "del"));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_shown_as_it_was_meant() {
        let notifications = Notifications::default();
        for (given, shown) in [("", ""), ("KEA", "AKE"), ("Ex", "Ex"), ("K$g", "Kg$"), ("g", "")] {
            assert!(notifications.set(given.as_bytes()));
            assert_eq!(notifications.letters(), shown, "{given}");
        }
        assert!(!notifications.set(b"Kq"));
    }
}
