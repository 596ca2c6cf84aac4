//! Listener ports that a shard could not bind: left out of what is served, and tried again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::GatewayKey;
use api_snapshot::facts::Binding;
use operator_translate::status::gateway_object;
use socket2::{Domain, Socket, Type};

use crate::pipeline::Pipeline;
use crate::pipeline::step::Step;

/// Pauses before a port is tried again: doubled each time.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// A port that a shard could not bind.
#[derive(Debug, Clone)]
pub(crate) struct Unavailable {
    /// What the shard said.
    pub(crate) message: String,
    /// The address itself is not one of this machine.
    pub(crate) is_address_unusable: bool,
    try_at: Instant,
    tries: u32,
    /// It is among what is served again, until a shard says no.
    pub(crate) is_tried: bool,
}

impl Pipeline {
    /// A shard cannot bind a listener's port: the Gateway goes on without it. Where the Gateway's own address is free, the
    /// shard's target port is what is taken, and another one is chosen at once.
    pub(super) async fn leave_out(
        &mut self,
        gateway: &GatewayKey,
        listener: &str,
        message: String,
    ) {
        let listeners = self.translation.listeners(gateway);
        let Some(port) = listeners
            .iter()
            .find_map(|(name, spec)| (name == listener).then_some(spec.port))
        else {
            return;
        };
        let known = self
            .unavailable
            .get(gateway)
            .and_then(|ports| ports.get(&port));
        let binding = self.allocator.bindings(gateway).and_then(|b| b.get(&port));
        let (false, Some(binding)) = (known.is_some_and(|known| !known.is_tried), binding) else {
            return;
        };
        let tries = known.map_or(0, |known| known.tries + 1);
        match probe(binding) {
            Ok(()) => {
                tracing::warn!(%gateway, port, target_port = binding.target_port, error = message, "target port is taken; another one is chosen");
                self.allocator.avoid_target(gateway, port);
            }
            Err(error) => {
                let pause = TRY_AGAIN.0 * 2_u32.saturating_pow(tries.min(10));
                let unavailable = Unavailable {
                    message,
                    is_address_unusable: error.kind() == io::ErrorKind::AddrNotAvailable,
                    try_at: Instant::now() + pause.min(TRY_AGAIN.1),
                    tries,
                    is_tried: false,
                };
                let ports = self.unavailable.entry(gateway.clone()).or_default();
                ports.insert(port, unavailable);
            }
        }
        self.place_anew(gateway).await;
    }

    /// Tries ports whose time has come and whose address is free.
    pub(super) async fn try_ports_again(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (gateway, ports) in &self.unavailable {
            let bindings = self.allocator.bindings(gateway);
            for (port, unavailable) in ports {
                let binding = bindings.and_then(|bindings| bindings.get(port));
                let is_due = !unavailable.is_tried && unavailable.try_at <= now;
                if is_due && binding.is_some_and(|b| probe(b).is_ok()) {
                    due.push((gateway.clone(), *port));
                }
            }
        }
        for (gateway, port) in due {
            let ports = self.unavailable.get_mut(&gateway);
            if let Some(unavailable) = ports.and_then(|ports| ports.get_mut(&port)) {
                unavailable.is_tried = true;
            }
            self.place_anew(&gateway).await;
        }
    }

    /// A Gateway is served as it is wanted: what was tried has worked.
    pub(super) fn ports_are_bound(&mut self, gateway: &GatewayKey) {
        if let Some(ports) = self.unavailable.get_mut(gateway) {
            ports.retain(|_, unavailable| !unavailable.is_tried);
            if ports.is_empty() {
                self.unavailable.remove(gateway);
            }
        }
    }

    /// Plans those anew who were refused an address or a port.
    pub(super) async fn place_refused(&mut self) {
        let refused: Vec<GatewayKey> = self.refused.keys().cloned().collect();
        for gateway in refused {
            self.place_anew(&gateway).await;
        }
    }

    /// Plans a Gateway and brings it to what is wanted of it now.
    async fn place_anew(&mut self, gateway: &GatewayKey) {
        let mut step = Step::default();
        {
            let snapshot = Arc::clone(&self.machine.snapshot);
            let snapshot = snapshot.read();
            self.place(&snapshot, gateway, &mut step);
            self.whole(&snapshot, gateway, &mut step);
        }
        self.needs_changed([gateway.clone()]);
        let object = gateway_object(gateway);
        let objects = std::slice::from_ref(&object);
        self.propose(step, objects, Instant::now(), String::new())
            .await;
        self.write_statuses([object].into());
    }
}

/// Whether a Gateway's own addresses can be bound on this machine, beside shards that have bound them already.
fn probe(binding: &Binding) -> io::Result<()> {
    binding
        .addresses
        .iter()
        .try_for_each(|address| can_bind(*address, binding.public_port))
}

fn can_bind(address: IpAddr, port: u16) -> io::Result<()> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Bound, not listening: no connection comes here.
    socket.bind(&SocketAddr::new(address, port).into())
}
