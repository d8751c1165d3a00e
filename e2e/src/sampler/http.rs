//! The least of an HTTP client: one GET at a time on a connection that is kept. In: a member's address and a path. Out:
//! the body, or what went wrong. (A sampler that asks seven members twenty times a second must itself cost nothing.)

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A body larger than this is no member's.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A connection to one member's HTTP port.
#[derive(Debug)]
pub struct Http {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

/// What went wrong: nothing listens there any more, or it did not answer (which may mean anything).
#[derive(Debug)]
pub enum Missed {
    Absent(String),
    Silent(String),
}

impl Http {
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { address: format!("{host}:{port}"), stream: None }
    }

    /// The body of `path`, or of an answer that is no success `Missed::Silent`.
    pub async fn get(&mut self, path: &str, patience: Duration) -> Result<Vec<u8>, Missed> {
        match timeout(patience, self.exchange(path)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(missed)) => {
                self.stream = None;
                Err(missed)
            }
            Err(_) => {
                self.stream = None;
                Err(Missed::Silent(format!("{path} took longer than {} ms", patience.as_millis())))
            }
        }
    }

    async fn exchange(&mut self, path: &str) -> Result<Vec<u8>, Missed> {
        // A kept connection that broke says little: whether somebody still listens there says more.
        if let Some(stream) = self.stream.take()
            && let Ok((body, stream)) = request(stream, &self.address, path).await
        {
            self.stream = Some(stream);
            return Ok(body);
        }
        let connected = TcpStream::connect(&self.address).await;
        let stream = BufReader::new(connected.map_err(|error| Missed::Absent(error.to_string()))?);
        let (body, stream) =
            request(stream, &self.address, path).await.map_err(|error| Missed::Silent(format!("{error:#}")))?;
        self.stream = Some(stream);
        Ok(body)
    }
}

async fn request(mut stream: BufReader<TcpStream>, host: &str, path: &str) -> Result<(Vec<u8>, BufReader<TcpStream>)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let code = line.split(' ').nth(1).context("no status line")?.to_owned();
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            bail!("the connection ended within the headers");
        }
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let length = length.context("no content-length")?;
    if length > BODY_BYTES_MAX {
        bail!("{length} bytes are no member's answer");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if code != "200" {
        bail!("status {code}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok((body, stream))
}
