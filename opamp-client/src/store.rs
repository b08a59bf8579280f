//! Where a client keeps what has to survive a restart.

use crate::core::ClientState;

/// Keeps the state of one client over restarts: see [`Builder::store`](crate::Builder::store).
///
/// The driver saves one state at a time, the newest, and never waits for it: the connection goes on
/// meanwhile. What fails is tried again with backoff. What takes longer than 30 seconds counts as
/// failed.
#[async_trait::async_trait]
pub trait SettingsStore: Send + Sync {
    /// What was saved last; `None` for an agent that never ran.
    ///
    /// # Errors
    ///
    /// When it cannot be known whether there is something, or what.
    async fn load(&self) -> std::io::Result<Option<ClientState>>;

    /// Saves the state in place of what was saved before: all of it or nothing, and so that it
    /// survives a crash of the machine when this returns. It may hold private keys.
    ///
    /// # Errors
    ///
    /// When that could not be done; what was saved before is then still there.
    async fn save(&self, state: &ClientState) -> std::io::Result<()>;
}
