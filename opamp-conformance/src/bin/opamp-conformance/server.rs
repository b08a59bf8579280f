//! `opamp-conformance server`.

use http::{HeaderMap, HeaderName, HeaderValue};
use opamp_conformance::report::Side;
use opamp_conformance::run::Subject;
use opamp_conformance::server::ServerUnderTest;
use opamp_conformance::wire::authority;
use opamp_conformance::wire::url::Url;

use crate::args::{ServerArgs, ServerAt};
use crate::run::{self, Hook};

pub(crate) async fn run(args: ServerArgs) -> Result<u8, String> {
    let mut target = target(&args.at)?;
    let suite = run::suite(&args.run, Side::Server)?;
    target.hooks = Hook::open(&args.hooks).await?.of_all();
    target.max_message_size = args.max_message_size;
    target.max_send_size = args.max_send_size;
    let reached_by = target.url.to_string();
    let names = (reached_by.clone(), reached_by);
    run::run(suite, &Subject::Server(target), true, names, &args.run).await
}

/// The server at this place, without hooks and with the limits of the specification.
pub(crate) fn target(at: &ServerAt) -> Result<ServerUnderTest, String> {
    let url: Url = at.url.parse()?;
    let tls = match &at.ca {
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
    for (name, value) in &at.headers {
        let bad = |why: String| format!("the header field {name:?}: {why}");
        let name = HeaderName::try_from(name).map_err(|error| bad(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| bad(error.to_string()))?;
        headers.append(name, value);
    }
    Ok(ServerUnderTest { tls, headers, ..ServerUnderTest::new(url) })
}
