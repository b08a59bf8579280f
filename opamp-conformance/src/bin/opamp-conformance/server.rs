//! `opamp-conformance server`.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opamp_conformance::hook::{Hooks, NoHooks};
use opamp_conformance::net::Network;
use opamp_conformance::report::Side;
use opamp_conformance::run::Subject;
use opamp_conformance::server::ServerUnderTest;
use opamp_conformance::wire::authority;
use opamp_conformance::wire::url::Url;

use crate::args::ServerArgs;
use crate::run::{self, Hook};

pub(crate) async fn run(args: ServerArgs) -> Result<u8, String> {
    let url: Url = args.url.parse()?;
    let tls = match &args.ca {
        Some(path) => {
            let bad = |why: String| format!("the authority {}: {why}", path.display());
            let pem = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
            Some(authority::client_config(&pem, None).map_err(|error| bad(error.to_string()))?)
        }
        None if url.tls => {
            return Err(format!("{url} asks for TLS; say with --ca which authority to trust"));
        }
        None => None,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        let bad = |why: String| format!("the header field {name:?}: {why}");
        let name = HeaderName::try_from(name).map_err(|error| bad(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| bad(error.to_string()))?;
        headers.append(name, value);
    }
    let suite = run::suite(&args.run, Side::Server)?;
    let hooks: Arc<dyn Hooks> = match Hook::open(&args.hooks).await? {
        Hook::None => Arc::new(NoHooks),
        Hook::Command(hook) => Arc::new(hook),
        Hook::Http(hook) => Arc::new(hook),
    };
    let subject = Subject::Server(ServerUnderTest {
        network: Network::Sockets,
        url: url.clone(),
        tls,
        headers,
        hooks,
        max_message_size: args.max_message_size,
        max_send_size: args.max_send_size,
    });
    run::run(suite, &subject, url.to_string(), &args.run, true).await
}
