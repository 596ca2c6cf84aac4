//! Starts programs, starts them again when they die, and stops them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::say;

/// Time for a program to end by itself before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// A program that lives this long has started well.
const STARTED_WELL: Duration = Duration::from_secs(5);
/// Failed starts in a row after which a program that never worked is given up: its arguments are wrong.
const FAILED_STARTS_MAX: u32 = 5;
/// Pause before a start, first and longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    stopping: bool,
    works: bool,
    given_up: bool,
}

static PROGRAMS: LazyLock<Mutex<BTreeMap<String, State>>> = LazyLock::new(Mutex::default);

fn with_state<T>(name: &str, change: impl FnOnce(&mut State) -> T) -> T {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    change(programs.entry(name.to_owned()).or_default())
}

/// A program that is kept running.
#[derive(Debug, Clone)]
pub(crate) struct Supervised {
    name: String,
    program: OsString,
    arguments: Arc<Mutex<Vec<OsString>>>,
}

impl Supervised {
    /// A program with its first arguments.
    pub(crate) fn new(name: &str, command: Command) -> Self {
        let command = command.as_std();
        let arguments = command.get_args().map(ToOwned::to_owned).collect();
        Self {
            name: name.to_owned(),
            program: command.get_program().to_owned(),
            arguments: Arc::new(Mutex::new(arguments)),
        }
    }

    /// Keeps it running from now on.
    pub(crate) fn start(&self) {
        tokio::spawn(self.clone().keep());
    }

    /// Later starts get these arguments as well; the last of equal ones counts.
    pub(crate) fn pin(&self, more: &[&str]) {
        let mut arguments = self
            .arguments
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for pair in more.chunks(2) {
            if let Some(at) = arguments.iter().position(|argument| argument == pair[0]) {
                let end = (at + 2).min(arguments.len());
                arguments.drain(at..end);
            }
            arguments.extend(pair.iter().map(Into::into));
        }
    }

    async fn keep(self) {
        let mut starts = Starts::default();
        loop {
            if with_state(&self.name, |state| state.stopping) {
                return;
            }
            let began = Instant::now();
            let ended = match self.spawn() {
                Ok(mut child) => {
                    with_state(&self.name, |state| state.pid = child.id());
                    child
                        .wait()
                        .await
                        .map_or_else(|error| error.to_string(), |status| status.to_string())
                }
                Err(error) => error.to_string(),
            };
            let lived = began.elapsed();
            let (stopping, works) = with_state(&self.name, |state| {
                state.pid = None;
                state.works |= lived >= STARTED_WELL;
                (state.stopping, state.works)
            });
            if stopping {
                return;
            }
            let Some(pause) = starts.ended(lived, works) else {
                say(&format!(
                    "{} ended ({ended}) {FAILED_STARTS_MAX} times in a row; given up",
                    self.name
                ));
                with_state(&self.name, |state| state.given_up = true);
                return;
            };
            say(&format!("{} ended ({ended}); starting it again", self.name));
            tokio::time::sleep(pause).await;
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let arguments = self
            .arguments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Command::new(&self.program)
            .args(arguments)
            .arg("--exit-with-parent")
            .process_group(0)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }
}

/// Starts of a program that ended soon, in a row.
#[derive(Debug, Default)]
struct Starts {
    failed: u32,
}

impl Starts {
    /// The pause before the next start of a program that ended after this time; none when it is given up, which one that ever
    /// worked is not: what keeps it from starting now may pass.
    fn ended(&mut self, lived: Duration, works: bool) -> Option<Duration> {
        if lived >= STARTED_WELL {
            self.failed = 0;
        }
        let pause = PAUSES.0 * 2_u32.pow(self.failed.min(10));
        self.failed = self.failed.saturating_add(u32::from(lived < STARTED_WELL));
        (works || self.failed < FAILED_STARTS_MAX).then(|| pause.min(PAUSES.1))
    }
}

/// The programs whose name begins so do what they are for.
pub(crate) fn works(prefix: &str) {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let named = programs.iter_mut();
    for (_, state) in named.filter(|(name, _)| name.starts_with(prefix)) {
        state.works = true;
    }
}

/// Whether a program does not start.
pub(crate) fn given_up(name: &str) -> bool {
    with_state(name, |state| state.given_up)
}

/// Stops all programs whose name begins so, and waits for them.
pub(crate) async fn stop(prefix: &str) {
    let pids: Vec<(String, u32)> = {
        let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
        programs
            .iter_mut()
            .filter(|(name, _)| name.starts_with(prefix))
            .filter_map(|(name, state)| {
                state.stopping = true;
                Some((name.clone(), state.pid?))
            })
            .collect()
    };
    for (_, pid) in &pids {
        signal(*pid, rustix::process::Signal::TERM);
    }
    let until = Instant::now() + STOP_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    for (name, pid) in pids {
        while with_state(&name, |state| state.pid.is_some()) {
            if Instant::now() >= until {
                say(&format!("{name} does not stop; killing it"));
                signal(pid, rustix::process::Signal::KILL);
                break;
            }
            poll.tick().await;
        }
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // Gone already: then there is nothing to stop.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_worked_is_given_up_and_what_did_is_started_for_ever() {
        let soon = Duration::from_millis(1);
        let mut starts = Starts::default();
        let pauses: Vec<Option<Duration>> = (0..5).map(|_| starts.ended(soon, false)).collect();
        assert!(pauses[..4].is_sorted() && pauses[..4].iter().all(Option::is_some));
        assert_eq!(pauses[4], None);

        let mut starts = Starts::default();
        for _ in 0..100 {
            assert!(starts.ended(soon, true).is_some());
        }
        assert_eq!(starts.ended(soon, true), Some(PAUSES.1));
        assert_eq!(starts.ended(STARTED_WELL, true), Some(PAUSES.0));
    }
}
