//! Panics: a task that panics ends silently, so the hook remembers it for the run on this thread.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics on any thread are remembered there.
pub(crate) fn record() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A thread that is ending has nobody to remember it for.
            let _ = SEEN.try_with(|seen| seen.borrow_mut().push(panic.to_string()));
            before(panic);
        }));
    });
    SEEN.with(|seen| seen.borrow_mut().clear());
}

/// What panicked on this thread since the last call.
pub(crate) fn take() -> Vec<String> {
    SEEN.with(|seen| std::mem::take(&mut *seen.borrow_mut()))
}
