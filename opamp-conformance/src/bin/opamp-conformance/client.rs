//! `opamp-conformance client`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opamp_conformance::client::ClientUnderTest;
use opamp_conformance::client::exec::{ClientHooks, ExecClient};
use opamp_conformance::client::listen::ListenClient;
use opamp_conformance::net::Network;
use opamp_conformance::report::Side;
use opamp_conformance::run::Subject;

use crate::args::ClientArgs;
use crate::run::{self, Hook};

pub(crate) async fn run(args: ClientArgs) -> Result<u8, String> {
    let mut suite = run::suite(&args.run, Side::Client)?;
    let hook = Hook::open(&args.hooks).await?;
    let heartbeat = Duration::from_secs(args.heartbeat);
    let (client, names): (Arc<dyn ClientUnderTest>, _) = match (args.exec, args.listen) {
        (Some(command), _) => {
            let client = ExecClient::new(&command)?;
            let client = match &args.header_arg {
                Some(words) => client.header(words)?,
                None => client,
            };
            let hooks = match hook {
                Hook::None => ClientHooks::None,
                Hook::Command(hook) => ClientHooks::Command(hook),
                Hook::Http(hook) => ClientHooks::Http(hook),
            };
            let client = { client.hooks(hooks).heartbeat(heartbeat) }
                .max_message_size(args.max_message_size);
            let name = Path::new(client.program()).file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            (Arc::new(client), (name, command))
        }
        (None, address) => {
            suite.options.jobs = 1;
            suite.options.pace = suite.options.pace.starting_within(args.start_timeout);
            let network = address.map_or(Network::Sockets, Network::At);
            let client = ListenClient::new(
                network,
                std::io::stderr(),
                hook.of_all(),
                heartbeat,
                args.max_message_size,
            );
            (Arc::new(client), ("client".to_owned(), "started by hand".to_owned()))
        }
    };
    let look = args.listen.is_none();
    run::run(suite, &Subject::Client(client), look, names, &args.run).await
}
