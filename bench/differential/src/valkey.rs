//! The Valkey that everything is compared with.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use ringmaster_engine::Protocol;

use crate::target::{Place, Server};

/// A Valkey of our own, gone when this is dropped.
pub struct Valkey {
    child: Child,
    directory: PathBuf,
}

impl Valkey {
    pub fn start(program: Option<&Path>) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => {
                let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers");
                let output = std::process::Command::new(peers).arg("valkey").stderr(Stdio::inherit()).output()?;
                let path = String::from_utf8(output.stdout)?;
                PathBuf::from(path.lines().last().context("bench/peers brought no Valkey")?)
            }
        };
        let directory = std::env::temp_dir().join(format!("ringmaster-differential-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let child = std::process::Command::new(program)
            .args(["--port", "0", "--unixsocket", "valkey.sock", "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "yes", "--hz", "500", "--dir"])
            .arg(&directory)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn()?;
        let valkey = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Server::connect(&valkey.place(), Protocol::Resp2).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "Valkey does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(valkey)
    }

    pub fn place(&self) -> Place {
        Place::Unix(self.directory.join("valkey.sock"))
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        // Best effort: it has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
