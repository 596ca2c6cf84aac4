//! Named tasks: a task that ends by a panic says so, with its name.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Spawns a task within a span of its own. A panic in it is logged at error with the name.
///
/// Cancel safety: dropping the handle lets the task run on; `abort` on it does not cancel `future` at once but with
/// the next wake-up of the supervising task.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::info_span!("task", task = name);
    #[allow(clippy::disallowed_methods)] // the one place that may
    let inner = tokio::spawn(future.instrument(span));
    let abort = inner.abort_handle();
    #[allow(clippy::disallowed_methods)]
    tokio::spawn(async move {
        let _abort_on_drop = AbortOnDrop(abort);
        match inner.await {
            Ok(output) => Some(output),
            Err(error) if error.is_panic() => {
                tracing::error!(task = name, "task panicked");
                None
            }
            Err(_) => None,
        }
    })
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
