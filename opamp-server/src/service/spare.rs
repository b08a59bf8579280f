//! What a request says of its connection stands in its extensions, for the handler to see. To make
//! such a map takes several allocations; so the one of a request that is answered serves the next
//! of its thread.

use std::cell::Cell;

use http::Extensions;

thread_local! {
    static SPARE: Cell<Option<Extensions>> = const { Cell::new(None) };
}

/// Gives a request that has no extensions an empty map to put some into.
pub(super) fn provide(extensions: &mut Extensions) {
    if extensions.is_empty()
        // A thread that ends has none any more.
        && let Ok(Some(spare)) = SPARE.try_with(Cell::take)
    {
        *extensions = spare;
    }
}

/// Takes the map of a request that is answered, and drops what is in it.
pub(super) fn take_back(mut extensions: Extensions) {
    extensions.clear();
    let _ = SPARE.try_with(|kept| kept.set(Some(extensions)));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_of_a_request_is_left_for_the_next() {
        let shared = Arc::new(1);
        let mut first = Extensions::new();
        provide(&mut first);
        first.insert(Arc::clone(&shared));
        take_back(first);
        assert_eq!(Arc::strong_count(&shared), 1);
        let mut second = Extensions::new();
        provide(&mut second);
        assert!(second.is_empty() && second.get::<Arc<i32>>().is_none());
        second.insert(2);
        provide(&mut second);
        assert_eq!(second.get(), Some(&2), "what a host has put there stays");
    }
}
