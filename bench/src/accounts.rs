//! What a server's process has cost so far, by the kernel's own account of it.

use std::fs;

use anyhow::Context as _;

/// The time that all threads of a process have been on a CPU, in nanoseconds. A thread that ended is no longer counted: the servers
/// measured here keep theirs.
pub(crate) fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("the server {pid} has ended"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let on_cpu = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        sum += on_cpu.context("/proc/*/schedstat is not as expected")?;
    }
    Ok(sum)
}

/// The memory of a process that is resident, in bytes.
pub(crate) fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kilobytes << 10)
}
