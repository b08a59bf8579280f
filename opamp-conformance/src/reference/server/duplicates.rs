//! Agents that report under an id that is connected already: the earlier connection is asked
//! whether it is alive before the later one is taken for another agent.

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::desk::Reply;
use super::{Push, Shared};

/// How long a connection may take to answer a ping.
const PING_LIMIT: Duration = Duration::from_secs(2);

impl Shared {
    /// The answer to a message that came over this WebSocket.
    pub(super) async fn answer(&self, connection: u32, message: &Bytes) -> Reply {
        let earlier = self.desk().contested(connection, message);
        if let Some(earlier) = earlier
            && self.is_alive(earlier).await
        {
            return self.desk().duplicate(connection, message);
        }
        self.desk().handle(Some(connection), message)
    }

    async fn is_alive(&self, connection: u32) -> bool {
        if self.faults.has("dead-connections-count-as-alive") {
            return true;
        }
        let Some(sender) = self.pushes().get(&connection).cloned() else { return false };
        let (pong, answered) = oneshot::channel();
        sender.try_send(Push::Ping(pong)).is_ok()
            && matches!(timeout(PING_LIMIT, answered).await, Ok(Ok(())))
    }
}
