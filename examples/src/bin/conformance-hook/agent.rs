//! Actions for an agent: its configuration is changed by hand, as its operator would, and it is told
//! to read it again.

use std::path::Path;
use std::process::Command;

use opamp_examples::program::Failure;
use serde_json::{Value, json};

use crate::{Done, text};

pub(crate) fn act(action: &Value) -> Result<Done, Failure> {
    let config = match text(action, "hook")? {
        "set_effective_config" => text(action, "body")?.to_owned(),
        "set_health" if action["healthy"] == true => "{}\n".to_owned(),
        "set_health" => {
            let reason = action["last_error"].as_str().filter(|reason| !reason.is_empty());
            // A string in JSON is one in YAML.
            format!("fail_with: {}\n", Value::from(reason.unwrap_or("no reason")))
        }
        _ => return Ok(Done::Unsupported),
    };
    let file = Path::new(text(action, "state")?).join("config.yaml");
    std::fs::write(&file, config)
        .map_err(|error| Failure::caused_by(format!("cannot write {}", file.display()), error))?;
    let pid = action["pid"].as_u64().ok_or_else(|| Failure::new("the action has no pid"))?;
    match Command::new("kill").args(["-HUP", &pid.to_string()]).status() {
        Ok(status) if status.success() => Ok(Done::Answer(json!({}))),
        Ok(status) => Err(Failure::new(format!("the agent cannot be told: kill: {status}"))),
        Err(error) => Err(Failure::caused_by("the agent cannot be told", error)),
    }
}
