//! What people see: a live table on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

use ringmaster_plan::crd::{CacheClusterStatus, MemberReport};

use super::world::World;

/// Lines of the past below the table.
const NOTES_MAX: usize = 12;
const REDRAW_EVERY: Duration = Duration::from_millis(200);
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) struct Display {
    is_terminal: bool,
    notes: VecDeque<String>,
    drawn: Option<Instant>,
    announced: bool,
}

impl Display {
    pub(super) fn new(is_terminal: bool) -> Self {
        Self { is_terminal, notes: VecDeque::new(), drawn: None, announced: false }
    }

    pub(super) fn note(&mut self, text: &str) {
        // What is tried every tenth of a second is said once.
        if self.notes.back().is_some_and(|last| last == text) {
            return;
        }
        if !self.is_terminal {
            print(&format!("{text}\n"));
        }
        self.notes.push_back(text.to_owned());
        if self.notes.len() > NOTES_MAX {
            self.notes.pop_front();
        }
    }

    pub(super) fn draw(&mut self, world: &World) {
        let status = world.status();
        let is_ready =
            status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let entrance = world.entrance().filter(|_| is_ready);
        if !self.is_terminal {
            if let Some(port) = entrance.filter(|_| !self.announced) {
                print(&format!("Ready: 127.0.0.1:{port}\n"));
                self.announced = true;
            }
            return;
        }
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW_EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let mut text = CLEAR.to_owned();
        match entrance {
            Some(port) => line(&mut text, &format!("127.0.0.1:{port}   try: redis-cli -c -p {port} set hello world")),
            None => line(&mut text, "starting"),
        }
        text.push('\n');
        text.push_str(&table(world, &status));
        text.push('\n');
        for note in &self.notes {
            line(&mut text, note);
        }
        line(
            &mut text,
            "\nringmaster playground cordon node1   replaces its members, in another terminal. Ctrl-C ends.",
        );
        print(&text);
    }

    pub(super) fn end(&self) {
        if self.is_terminal {
            print("\n");
        }
    }
}

/// For `ringmaster playground status`.
pub(super) fn status(world: &World) -> Result<String, String> {
    Ok(table(world, &world.status()))
}

fn table(world: &World, status: &CacheClusterStatus) -> String {
    let mut text = String::new();
    line(
        &mut text,
        &row(["MEMBER", "SHARD", "ROLE", "STATE", "RING", "PORT", "PID", "KEYS", "ZONE", "NODE"].map(str::to_owned)),
    );
    for member in &status.members {
        line(&mut text, &row(cells(world, member)));
    }
    for replacing in &status.replacing {
        line(
            &mut text,
            &format!("replacing {} ({}), waits for {}", replacing.member, replacing.reason, replacing.waiting_for),
        );
    }
    text
}

fn cells(world: &World, member: &MemberReport) -> [String; 10] {
    let process = world.process(&member.name);
    let (pid, port) = process.map_or_else(Default::default, |(pid, port)| (pid.to_string(), port.to_string()));
    let keys = world.member_status(&member.name).map(|status| status.keys.to_string()).unwrap_or_default();
    let cordoned = if world.is_cordoned(&member.node) { " (cordoned)" } else { "" };
    [
        member.name.clone(),
        member.shard.map(|shard| shard.to_string()).unwrap_or_default(),
        format!("{:?}", member.role),
        format!("{:?}", member.state),
        world.part_in_ring(&member.name).to_owned(),
        port,
        pid,
        keys,
        member.zone.clone(),
        format!("{}{cordoned}", member.node),
    ]
}

fn row(cells: [String; 10]) -> String {
    let [name, shard, role, state, ring, port, pid, keys, zone, node] = cells;
    format!("{name:<16} {shard:<6} {role:<8} {state:<10} {ring:<6} {port:<6} {pid:<8} {keys:<9} {zone:<8} {node}")
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// A reader that has gone away is no reason to end.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
