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
/// Failed starts in a row after which a program is given up.
const FAILED_STARTS_MAX: u32 = 5;

#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    stopping: bool,
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
        let mut failed_starts = 0;
        let mut pause = Duration::from_millis(50);
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
            let stopping = with_state(&self.name, |state| {
                state.pid = None;
                state.stopping
            });
            if stopping {
                return;
            }
            if began.elapsed() >= STARTED_WELL {
                failed_starts = 0;
                pause = Duration::from_millis(50);
            } else {
                failed_starts += 1;
            }
            if failed_starts >= FAILED_STARTS_MAX {
                say(&format!(
                    "{} ended ({ended}) {failed_starts} times in a row; given up",
                    self.name
                ));
                with_state(&self.name, |state| state.given_up = true);
                return;
            }
            say(&format!("{} ended ({ended}); starting it again", self.name));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
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
