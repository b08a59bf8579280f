//! Messages as text.
