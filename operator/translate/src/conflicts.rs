//! Listeners of one Gateway that are not distinct.

use api::condition::reasons;
use operator_objects::spec::Listener;

use crate::listener::Examined;
use crate::problem::Problem;

/// Why a listener is not distinct from others, if it is not. All listeners of a conflict have one: none wins.
///
/// Listeners of a protocol that is not served conflict with nobody: nothing is bound for them.
///
/// Source: gateway-api v1 `GatewaySpec.listeners`, "Handling indistinct Listeners".
pub(crate) fn conflict(listeners: &[(&Listener, Examined)], at: usize) -> Option<Problem> {
    let (this, examined) = &listeners[at];
    examined.protocol?;
    let others = || {
        let others = listeners
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index != at);
        others
            .map(|(_, other)| other)
            .filter(|(other, examined)| other.port == this.port && examined.protocol.is_some())
    };
    if let Some((other, _)) = others().find(|(_, other)| other.protocol != examined.protocol) {
        let message = format!(
            "listener {} has port {} with protocol {}",
            other.name, other.port, other.protocol
        );
        return Some(Problem::new(reasons::PROTOCOL_CONFLICT, message));
    }
    let (other, _) = others().find(|(other, _)| other.hostname == this.hostname)?;
    let host = this.hostname.as_deref().unwrap_or("(all)");
    let message = format!(
        "listener {} has port {} with hostname {host} too",
        other.name, other.port
    );
    Some(Problem::new(reasons::HOSTNAME_CONFLICT, message))
}
