//! Actions for a server: requests to its admin API.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use opamp_examples::program::Failure;
use serde_json::{Map, Value, json};

use crate::{Done, text};

/// How long the admin API may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn act(admin: SocketAddr, action: &Value) -> Result<Done, Failure> {
    let of_agent =
        |what: &str| text(action, "instance_uid").map(|uid| format!("/v1/agents/{uid}{what}"));
    let done = |method: &str, path: &str, body: &str| match request(admin, method, path, body)? {
        (200..=299, _) => Ok(Done::Answer(json!({}))),
        (501, _) => Ok(Done::Unsupported),
        (_, answer) => Err(Failure::new(answer.trim())),
    };
    match text(action, "hook")? {
        "offer_config" => {
            let files = action["files"].as_object().into_iter().flatten();
            let files: Map<_, _> = files
                .map(|(name, file)| {
                    let (body, content_type) = (&file["body"], &file["content_type"]);
                    let content_type = content_type.as_str().unwrap_or_default();
                    (name.clone(), json!({"body_base64": body, "content_type": content_type}))
                })
                .collect();
            done("PUT", &of_agent("/config-files")?, &Value::from(files).to_string())
        }
        "offer_connection_settings" => {
            let mut settings = action["settings"].clone();
            name_base64(&mut settings);
            done("PUT", &of_agent("/connection-settings")?, &settings.to_string())
        }
        "offer_packages" => {
            let mut offer = action["packages"].clone();
            for package in offer["packages"].as_object_mut().into_iter().flat_map(Map::values_mut) {
                if let Some(package) = package.as_object_mut()
                    && let Some(content) = package.remove("content")
                {
                    package.insert("content_base64".to_owned(), content);
                }
            }
            done("PUT", &of_agent("/packages")?, &offer.to_string())
        }
        "send_custom_message" => {
            let (capability, data) = (&action["capability"], &action["data"]);
            let message =
                json!({ "capability": capability, "type": action["type"], "data_base64": data });
            done("POST", &of_agent("/custom-message")?, &message.to_string())
        }
        "restart_agent" => done("POST", &of_agent("/restart")?, ""),
        "disconnect" => done("POST", &of_agent("/disconnect")?, ""),
        "request_full_state" => done("POST", &of_agent("/report-full-state")?, ""),
        "show_agent" => match request(admin, "GET", &of_agent("")?, "")? {
            (200, answer) => {
                let agent: Value = serde_json::from_str(&answer)
                    .map_err(|error| Failure::caused_by("the agent is not JSON", error))?;
                Ok(Done::Answer(json!({ "agent": agent })))
            }
            (404, _) => Ok(Done::Answer(json!({ "agent": null }))),
            (_, answer) => Err(Failure::new(answer.trim())),
        },
        "decide_certificate_request" => {
            let decision = if action["approve"] == true { "approve" } else { "refuse" };
            done("POST", &of_agent(&format!("/certificate-request/{decision}"))?, "")
        }
        "approve_agent" => done("POST", &of_agent("/approve")?, ""),
        "overload" if action["on"] == true => done("PUT", "/v1/unavailable?retry_after=30", ""),
        "overload" => done("DELETE", "/v1/unavailable", ""),
        _ => Ok(Done::Unsupported),
    }
}

/// In actions bytes are base64, to the admin API only where it is said so.
fn name_base64(settings: &mut Value) {
    for (name, value) in settings.as_object_mut().into_iter().flatten() {
        if name != "certificate" {
            name_base64(value);
            continue;
        }
        if let Some(certificate) = value.as_object_mut() {
            let parts = std::mem::take(certificate).into_iter();
            certificate.extend(parts.map(|(name, part)| (format!("{name}_base64"), part)));
        }
    }
}

/// Status and body of a request to the admin API.
fn request(
    admin: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), Failure> {
    let failed = |error| Failure::caused_by(format!("the admin API at {admin}"), error);
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: {admin}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .map_err(failed)?;
    let mut response = String::new();
    stream.read_to_string(&mut response).map_err(failed)?;
    let parts = response.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parts.ok_or_else(|| Failure::new(format!("the admin API at {admin} does not speak HTTP")))
}
