//! A panic while one object is translated stays with that object.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `translate`; a panic becomes its message.
///
/// What `translate` borrows mutably must hold its invariants at every step: here only a cache does, which it fills
/// entry by entry.
pub(crate) fn guarded<T>(translate: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(translate)).map_err(|panic| {
        format!(
            "translating this object failed, it is left out until it changes: {}; please report this",
            text(panic.as_ref())
        )
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    match (
        panic.downcast_ref::<&'static str>(),
        panic.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "unknown panic",
    }
}
