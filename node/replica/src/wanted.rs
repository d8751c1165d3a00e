//! Proposals that are wanted until the ring shows that they are not.
//!
//! A proposal may get lost, and a timeout is no outcome (rule 5): so what is still wanted is proposed again, with a
//! growing pause. Proposals are conditional on versions, so that saying it twice does nothing twice.

use std::time::Duration;

use ringmaster_ring::Command;

use crate::Mono;

/// The first pause before the same command is proposed again. Longer than a commit usually takes.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Wanted {
    command: Command,
    again_at: Mono,
    pause: Duration,
}

/// What was proposed and is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    wanted: Vec<Wanted>,
}

impl Proposals {
    /// Says what is wanted now, all of it. Calls `propose` for each that is due.
    pub(crate) fn want(&mut self, commands: Vec<Command>, now: Mono, mut propose: impl FnMut(Command)) {
        self.wanted.retain(|wanted| commands.contains(&wanted.command));
        for command in commands {
            match self.wanted.iter_mut().find(|wanted| wanted.command == command) {
                Some(wanted) if now < wanted.again_at => {}
                Some(wanted) => {
                    wanted.pause = (wanted.pause * 2).min(PAUSE_MAX);
                    wanted.again_at = now.plus(wanted.pause);
                    propose(command);
                }
                None => {
                    self.wanted.push(Wanted {
                        command: command.clone(),
                        again_at: now.plus(PAUSE_FIRST),
                        pause: PAUSE_FIRST,
                    });
                    propose(command);
                }
            }
        }
    }
}
