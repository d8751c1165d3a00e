//! Commands as a person types them (kubectl, helm, e2e/cluster's own), and waiting for what they bring about.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

/// No command takes longer: the longest are drains, rolls and full preloads, which have shorter limits of their own.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// Runs a command to its end and gives its output; fails with all that it said.
pub async fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String> {
    run_with_input(program, arguments, "").await
}

/// The same with something on its standard input.
pub async fn run_with_input(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str], input: &str) -> Result<String> {
    let (code, out, err) = try_run(&program, arguments, input).await?;
    if code != 0 {
        bail!("{} {} ended with {code}:\n{err}{out}", program.as_ref().to_string_lossy(), arguments.join(" "));
    }
    Ok(out)
}

/// Runs a command that may fail: exit code, output, error output.
pub async fn try_run(
    program: impl AsRef<std::ffi::OsStr>,
    arguments: &[&str],
    input: &str,
) -> Result<(i32, String, String)> {
    use std::process::Stdio;
    use tokio::io::AsyncWriteExt;
    let name = program.as_ref().to_string_lossy().into_owned();
    let mut child = Command::new(program.as_ref())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.ok();
    }
    let ended = timeout(COMMAND_LIMIT, child.wait_with_output()).await;
    let output = ended.with_context(|| format!("{name} {} does not end", arguments.join(" ")))??;
    Ok((
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    run("kubectl", arguments).await
}

/// `e2e/cluster/node`: what happens to whole nodes. Only on clusters that e2e/cluster made.
pub async fn node_tool(root: &Path, arguments: &[&str]) -> Result<String> {
    run(root.join("e2e/cluster/node"), arguments).await
}

/// Asks until there is an answer. `Ok(Err(why))` means "not yet"; the last reason stands in the failure.
pub async fn until<T, F>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<std::result::Result<T, String>>>,
{
    let began = Instant::now();
    let mut shown = Instant::now();
    loop {
        let waiting = match ask().await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(waiting)) => waiting,
            // The API server may be away for a moment, too; it is waited for like everything else.
            Err(error) => format!("{error:#}"),
        };
        if began.elapsed() > patience {
            bail!("waited {} s for {what}, but: {waiting}", patience.as_secs());
        }
        if shown.elapsed() > Duration::from_secs(15) {
            shown = Instant::now();
            eprintln!("    waiting for {what} since {} s: {waiting}", began.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}
