//! The smallest agent: it reports who it is over WebSocket, and stays.
//!
//! `opamp-minimal-agent URL [HEARTBEAT-MILLISECONDS]`

use std::process::ExitCode;
use std::time::Duration;

use opamp_client::Client;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next() else { return ExitCode::from(2) };
    let interval = arguments.next().and_then(|text| text.parse().ok());
    let mut builder =
        Client::builder(url).identifying_attribute("service.name", "opamp-minimal-agent");
    if let Some(milliseconds) = interval {
        builder = builder.configure(move |config| {
            config.heartbeat_interval = Some(Duration::from_millis(milliseconds));
        });
    }
    let Ok((_client, mut events, driver)) = builder.build() else { return ExitCode::from(2) };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    runtime.spawn(driver.run());
    runtime.block_on(async { while events.next().await.is_some() {} });
    ExitCode::SUCCESS
}
