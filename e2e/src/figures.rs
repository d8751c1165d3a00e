//! The figures that a suite leaves behind: one line of JSON each as they come, and a table of all at the end (`run` prints
//! it). In: a claim's name, what was measured, the value with its unit.

use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::Result;
use serde_json::json;

use crate::settings::Settings;

/// Notes one figure.
pub fn note(settings: &Settings, test: &str, what: &str, value: impl std::fmt::Display) -> Result<()> {
    let value = value.to_string();
    eprintln!("    {test}: {what}: {value}");
    fs::create_dir_all(&settings.out)?;
    let mut file = OpenOptions::new().create(true).append(true).open(settings.out.join("figures.jsonl"))?;
    writeln!(file, "{}", json!({ "test": test, "what": what, "value": value }))?;
    Ok(())
}
