//! The size limits of messages.

/// The default of every size limit: 64 MiB (SIZE-02, SIZE-19).
pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 64 * 1024 * 1024;

/// How large messages of one connection may be, in bytes.
///
/// Over WebSocket the limits count the OpAMP message with its header (SIZE-01), over plain HTTP the
/// complete body (SIZE-18); both before compression when sending and after decompression when
/// receiving. A message of exactly the limit passes.
///
/// ```
/// use opamp_proto::MessageLimits;
///
/// let limits = MessageLimits::new().with_max_receive(1024);
/// assert!(limits.allows_receive(1024));
/// assert!(!limits.allows_receive(1025));
/// assert_eq!(limits.max_send(), opamp_proto::DEFAULT_MAX_MESSAGE_SIZE);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageLimits {
    max_receive: usize,
    max_send: usize,
}

impl MessageLimits {
    /// The default limits: [`DEFAULT_MAX_MESSAGE_SIZE`] in both directions.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_receive: DEFAULT_MAX_MESSAGE_SIZE, max_send: DEFAULT_MAX_MESSAGE_SIZE }
    }

    /// Sets the limit for received messages (SIZE-03, SIZE-20).
    #[must_use]
    pub const fn with_max_receive(mut self, bytes: usize) -> Self {
        self.max_receive = bytes;
        self
    }

    /// Sets the limit for sent messages (SIZE-03, SIZE-20).
    #[must_use]
    pub const fn with_max_send(mut self, bytes: usize) -> Self {
        self.max_send = bytes;
        self
    }

    /// The most bytes a received message may have.
    #[must_use]
    pub const fn max_receive(&self) -> usize {
        self.max_receive
    }

    /// The most bytes a sent message may have.
    #[must_use]
    pub const fn max_send(&self) -> usize {
        self.max_send
    }

    /// Whether a message of this size may be received.
    #[must_use]
    pub const fn allows_receive(&self, bytes: usize) -> bool {
        bytes <= self.max_receive
    }

    /// Whether a message of this size may be sent.
    #[must_use]
    pub const fn allows_send(&self, bytes: usize) -> bool {
        bytes <= self.max_send
    }
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_64_mib_unless_set() {
        let _judged = opamp_spec::judges(&["SIZE-02", "SIZE-19"]);
        let limits = MessageLimits::default();
        assert_eq!((limits.max_receive(), limits.max_send()), (67_108_864, 67_108_864));
        assert!(limits.allows_receive(67_108_864) && !limits.allows_receive(67_108_865));
        assert!(limits.allows_send(67_108_864) && !limits.allows_send(67_108_865));
    }

    #[test]
    fn each_limit_is_set_on_its_own() {
        let _judged = opamp_spec::judges(&["SIZE-03", "SIZE-20"]);
        let limits = MessageLimits::new().with_max_receive(10).with_max_send(20);
        assert!(limits.allows_receive(10) && !limits.allows_receive(11));
        assert!(limits.allows_send(20) && !limits.allows_send(21));
    }
}
