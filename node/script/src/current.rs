//! Whom the functions of the interpreter ask: the host of the script that runs.
//!
//! Functions that Lua keeps outlive every run, and a host does not outlive its own; making them anew for each run would cost more than
//! most scripts do.
//!
//! This is one of the modules with `unsafe` code. Its invariants:
//! 1. There is a pointer only while [`Current::during`] runs, which borrows the host alone for as long.
//! 2. Whoever uses it takes it out first and puts it back afterwards, so that it is lent once at a time.

#![allow(
    unsafe_code,
    reason = "a borrow that ends with a call, seen from what lives longer; the invariants stand above"
)]

use std::cell::Cell;
use std::ptr::NonNull;

use crate::interpreter::Host;

#[derive(Default)]
pub(crate) struct Current(Cell<Option<NonNull<dyn Host>>>);

impl Current {
    /// Lends a host to whoever [asks](Self::ask) while `run` does.
    pub(crate) fn during<R>(&self, host: &mut dyn Host, run: impl FnOnce() -> R) -> R {
        /// Takes the pointer away, however the run ends.
        struct Lent<'a>(&'a Current, Option<NonNull<dyn Host>>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                self.0.0.set(self.1);
            }
        }
        let host = NonNull::from(host);
        // SAFETY: only the lifetime is another; `Lent` takes the pointer away before the borrow ends (1).
        let host = unsafe { std::mem::transmute::<NonNull<dyn Host + '_>, NonNull<dyn Host + 'static>>(host) };
        let _lent = Lent(self, self.0.replace(Some(host)));
        run()
    }

    /// Asks the host. None if no script runs, or if the host is being asked already.
    pub(crate) fn ask<R>(&self, ask: impl FnOnce(&mut dyn Host) -> R) -> Option<R> {
        /// Puts the pointer back, however the question ends.
        struct Asked<'a>(&'a Current, NonNull<dyn Host>);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                self.0.0.set(Some(self.1));
            }
        }
        let mut asked = Asked(self, self.0.take()?);
        // SAFETY: `during` borrows the host while there is a pointer (1), and nobody else has this one meanwhile (2).
        Some(ask(unsafe { asked.1.as_mut() }))
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_engine::ReplyBuf;

    use super::*;
    use crate::interpreter::HostReply;

    #[derive(Default)]
    struct Counting(usize);

    impl Host for Counting {
        fn call(&mut self, args: &[&[u8]], _: &mut ReplyBuf) -> HostReply {
            self.0 += args.len();
            HostReply::Replied
        }

        fn permits(&mut self, _: &[&[u8]]) -> Option<bool> {
            None
        }

        fn log(&mut self, _: u8, _: &str) {}
    }

    #[test]
    fn a_host_is_asked_during_its_run_and_by_one_at_a_time() {
        let (current, mut host) = (Current::default(), Counting::default());
        assert!(current.ask(|_| ()).is_none());
        current.during(&mut host, || {
            let mut reply = ReplyBuf::default();
            assert!(current.ask(|host| host.call(&[b"a", b"b"], &mut reply)).is_some());
            assert!(current.ask(|_| current.ask(|_| ())).is_some_and(|inner| inner.is_none()));
            assert!(current.ask(|host| host.call(&[b"c"], &mut reply)).is_some());
        });
        assert!(current.ask(|_| ()).is_none());
        assert_eq!(host.0, 3);
    }
}
