//! How long the tester waits. Every wait of a case is one of these, so that a slow subject can be
//! tested with a longer pace.

use std::time::Duration;

/// The waits, all scaled alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    scale: f64,
    start: f64,
}

impl Pace {
    /// Every wait multiplied by `scale`, which is kept between 0.1 and 100.
    #[must_use]
    pub fn new(scale: f64) -> Self {
        let scale = if scale.is_finite() { scale.clamp(0.1, 100.0) } else { 1.0 };
        Self { scale, start: 15.0 }
    }

    /// The same with this many seconds for a program to start, for one that a person starts.
    #[must_use]
    pub fn starting_within(self, seconds: f64) -> Self {
        Self { start: seconds, ..self }
    }

    /// The factor.
    #[must_use]
    pub fn scale(self) -> f64 {
        self.scale
    }

    /// For a reply, or another reaction that is due at once: 5 s.
    #[must_use]
    pub fn reply(self) -> Duration {
        self.of(5.0)
    }

    /// For a program to start and connect: 15 s.
    #[must_use]
    pub fn start(self) -> Duration {
        self.of(self.start)
    }

    /// For a client to come back after a lost connection or a failed attempt: 60 s.
    #[must_use]
    pub fn comeback(self) -> Duration {
        self.of(60.0)
    }

    /// For work that takes a while, such as applying a configuration or a package: 20 s.
    #[must_use]
    pub fn work(self) -> Duration {
        self.of(20.0)
    }

    /// In which something that must not come would have come: 1.5 s.
    #[must_use]
    pub fn quiet(self) -> Duration {
        self.of(1.5)
    }

    /// Between two polls of a scripted agent over plain HTTP: 0.25 s.
    #[must_use]
    pub fn poll(self) -> Duration {
        self.of(0.25)
    }

    /// This many seconds, scaled.
    #[must_use]
    pub fn of(self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }
}
