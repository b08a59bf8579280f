//! What a scenario expects, and what it says when it sees something else.

use std::fmt;

/// An expectation that was not met.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl Failed {
    pub(crate) fn new(expected: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Self { expected: expected.to_string(), seen: cut(&seen.to_string()) }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected: {}\n      seen: {}", self.expected, self.seen)
    }
}

/// For what has to work before anything can be judged.
pub(crate) trait Needed<T> {
    fn needed(self, what: &str) -> Result<T, Failed>;
}

impl<T, E: fmt::Display> Needed<T> for Result<T, E> {
    fn needed(self, what: &str) -> Result<T, Failed> {
        self.map_err(|error| Failed::new(what, error))
    }
}

pub(crate) fn holds(
    condition: bool,
    expected: &str,
    seen: impl fmt::Display,
) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(Failed::new(expected, seen)) }
}

pub(crate) fn equal<T: PartialEq<U> + fmt::Debug + ?Sized, U: fmt::Debug + ?Sized>(
    what: &str,
    seen: &T,
    expected: &U,
) -> Result<(), Failed> {
    if seen == expected {
        return Ok(());
    }
    let expected = cut(&format!("{expected:?}"));
    Err(Failed::new(format_args!("{what}: {expected}"), format_args!("{seen:?}")))
}

/// Some of what is seen is a megabyte long.
pub(crate) fn cut(text: &str) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
