//! The request path: sockets, TLS, HTTP, matching, filters, endpoints.
//!
//! ```text
//!   DataPlane (control)  --prepare/activate/set_backend-->  shared cells (ArcSwap)
//!                                                               |  read once for each request
//!   worker thread (one for each core): accept -> tls -> http -> host, path -> table -> filters -> pick -> send -> respond -> log
//! ```
//!
//! **Invariants**
//! - A connection belongs to the Gateway and listener port that its socket was bound for; Host never chooses the Gateway.
//! - An address accepts for one Gateway at a time; what waits in a socket is accepted before it closes.
//! - A request reads its Gateway's table once, and is served by that one to its end.
//! - The string that is matched is the string that is forwarded.
//! - What crosses the proxy is parsed, validated and written anew; nothing is forwarded verbatim.
//! - Workers share no lock: connections, pools and timers are a worker's own; shared cells are swapped, counters and the
//!   health of endpoints are relaxed atomics.
//! - Nobody holds a connection, a stream or an endpoint without end: each wait for a client has a limit.
//! - A request is sent to a second endpoint only when the first did nothing with it, or may be asked twice.
//! - What is ejected is tried again in bounded time, and never leaves a backend without an endpoint.
//! - A failed request has one cause, in the log and in a metric.
//!
//! It deliberately does not know: the operator, the delta stream, files.

mod body;
mod cause;
mod config;
mod connection;
mod filters;
mod gateway;
mod host;
mod hygiene;
mod listening;
mod log;
mod metrics;
mod plane;
mod request;
mod respond;
mod small_writes;
mod stream;
mod streams;
mod timer;
mod tls;
mod upstream;
mod worker;

pub use config::ForwardConfig;
pub use metrics::Load;
pub use plane::{CertificateError, DataPlane, PrepareError, PreparedGateway};
pub use upstream::BackendHandle;

/// A Gateway's table as this proxy uses it.
pub type GatewayTable = shard_proxy_table::SubTable<BackendHandle>;
