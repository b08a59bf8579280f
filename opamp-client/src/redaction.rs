//! What a server is not to see of the effective configuration.

use std::fmt;
use std::sync::Arc;

use opamp_proto::v1;

type Redact = Arc<dyn Fn(&mut v1::EffectiveConfig) + Send + Sync>;

/// Sees every effective configuration before the client does. It runs where the configuration is
/// set, not where the connection is served.
#[derive(Clone, Default)]
pub(crate) struct Redaction(Option<Redact>);

impl Redaction {
    pub(crate) fn new(redact: impl Fn(&mut v1::EffectiveConfig) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(redact)))
    }

    pub(crate) fn apply(&self, config: &mut v1::EffectiveConfig) {
        if let Some(redact) = &self.0 {
            redact(config);
        }
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Redaction(..)" } else { "None" })
    }
}
