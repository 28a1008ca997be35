//! Keeps panics of other people's code from getting out.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use vdisk_core::{Error, ErrorKind, Result};

thread_local! {
    /// Whether this thread is inside [`guarded`], where a panic is no news.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it becomes an error, and nothing is printed of it.
///
/// The panic hook of the program is kept, and asked about all panics but those.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    done.unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("the file system's structures make no sense: {said}"),
        )
        .hint("check the file system; if it is sound, this is a fault in vdisk: please report it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let done: Result<()> = guarded(|| {
            let nothing: Vec<u8> = Vec::new();
            let at = nothing.len();
            Err(Error::internal(nothing[at..=at][0].to_string()))
        });
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("range end index"), "{error}");
        assert!(guarded(|| Ok(1)).is_ok());
    }
}
