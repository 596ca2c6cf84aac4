//! Configuration lane: the entries of one Gateway. One HTTPRoute rule is one entry that names its parents, so
//! that one edited field is one small delta; whatever merges (hosts, paths, precedence) is left to the shard.

use api::{BackendKey, CertificateKey, RouteKey, TenantId, Timestamp};
use minicbor::{Decode, Encode};
use serde::Serialize;

/// Names one entry within its Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum GatewayEntryKey {
    /// The Gateway itself; exactly one.
    #[n(0)]
    Gateway,
    /// A listener by name (unique in the Gateway).
    #[n(1)]
    Listener(#[n(0)] String),
    /// One rule of one route that is attached to this Gateway.
    #[n(2)]
    Rule(#[n(0)] RouteKey, #[n(1)] u16),
}

/// One entry of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum GatewayEntry {
    /// See [`GatewaySpec`].
    #[n(0)]
    Gateway(#[n(0)] GatewaySpec),
    /// See [`ListenerSpec`].
    #[n(1)]
    Listener(#[n(0)] ListenerSpec),
    /// See [`RuleSpec`].
    #[n(2)]
    Rule(#[n(0)] RuleSpec),
}

/// The Gateway itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct GatewaySpec {
    /// Owner, for metrics and budgets.
    #[n(0)]
    pub tenant: TenantId,
    /// `metadata.uid`: a Gateway deleted and created anew under the same name is another one.
    #[n(1)]
    pub uid: String,
    /// `metadata.generation` that this entry was translated from.
    #[n(2)]
    pub generation: i64,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum ListenerProtocol {
    /// Clear-text HTTP/1.1, and HTTP/2 by prior knowledge.
    #[n(0)]
    Http,
    /// TLS terminated here; HTTP/1.1 or HTTP/2 by ALPN.
    #[n(1)]
    Https,
}

/// A listener that serves (invalid ones are left out by translate).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct ListenerSpec {
    /// Port of the listener as the user wrote it; the socket's port is in the binding fact.
    #[n(0)]
    pub port: u16,
    /// Protocol; equal for all listeners of one port.
    #[n(1)]
    pub protocol: ListenerProtocol,
    /// Lower-case host name, `*.suffix`, or none for all hosts.
    #[n(2)]
    pub hostname: Option<String>,
    /// Certificates in the user's order; empty for [`ListenerProtocol::Http`].
    #[n(3)]
    pub certificates: Vec<CertificateKey>,
}

/// One rule of an HTTPRoute as one Gateway serves it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RuleSpec {
    /// `rules[].name`, if given.
    #[n(0)]
    pub name: Option<String>,
    /// Age of the route: older wins among equal matches.
    #[n(1)]
    pub created_at: Timestamp,
    /// The listeners of this Gateway that the route is attached to, in the Gateway's order.
    #[n(2)]
    pub attachments: Vec<Attachment>,
    /// Never empty: translate writes the default (prefix `/`) out.
    #[n(3)]
    pub matches: Vec<RouteMatch>,
    /// Filters of the rule in the user's order.
    #[n(4)]
    pub filters: Vec<Filter>,
    /// Backends; may be empty (the rule then answers 500 unless a filter answers, gateway-api v1
    /// `HTTPRouteRule.backendRefs`).
    #[n(5)]
    pub backends: Vec<WeightedBackend>,
    /// Time limits.
    #[n(6)]
    pub timeouts: Timeouts,
}

/// One listener that a route is attached to, and the hosts under which it is served there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Attachment {
    /// Name of the listener.
    #[n(0)]
    pub listener: String,
    /// Hosts that both listener and route allow; never empty.
    #[n(1)]
    pub hosts: Vec<AttachedHost>,
}

/// A host under which a rule is served on a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct AttachedHost {
    /// Intersection of the listener's and the route's host names: lower-case name, `*.suffix`, or none for all hosts.
    #[n(0)]
    pub host: Option<String>,
    /// The route's own host name, by which precedence is decided among equal intersections
    /// (gateway-api v1.7 feature `GatewayRouteHostnameIntersectionPrecedence`).
    #[n(1)]
    pub route_host: Option<String>,
}

/// One match: all of its parts must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub struct RouteMatch {
    /// Path condition.
    #[n(0)]
    pub path: PathMatch,
    /// Upper-case method, if any.
    #[n(1)]
    pub method: Option<String>,
    /// Header conditions; names are lower-case and unique.
    #[n(2)]
    pub headers: Vec<NameValue>,
    /// Query-parameter conditions; names are unique and case-sensitive.
    #[n(3)]
    pub query: Vec<NameValue>,
}

/// Path condition. Compared with the normalised path of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    #[n(0)]
    Exact(#[n(0)] String),
    /// By path element: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`. Without trailing `/`, except `/` itself.
    #[n(1)]
    Prefix(#[n(0)] String),
}

/// A name and an exact value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct NameValue {
    /// Name.
    #[n(0)]
    pub name: String,
    /// Value.
    #[n(1)]
    pub value: String,
}

/// A filter. Applied in order; [`Filter::Redirect`] and [`Filter::Fail`] answer the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum Filter {
    /// Changes the request's headers.
    #[n(0)]
    RequestHeaders(#[n(0)] HeaderChanges),
    /// Changes the response's headers.
    #[n(1)]
    ResponseHeaders(#[n(0)] HeaderChanges),
    /// Answers with a redirect.
    #[n(2)]
    Redirect(#[n(0)] Redirect),
    /// Changes host or path before forwarding.
    #[n(3)]
    Rewrite(#[n(0)] Rewrite),
    /// Answers with this status: a filter that could not be resolved must fail the requests that it was for.
    #[n(4)]
    Fail(#[n(0)] u16),
}

/// Header changes: first `set`, then `add`, then `remove`. Names are lower-case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub struct HeaderChanges {
    /// Replaces all values of the name.
    #[n(0)]
    pub set: Vec<NameValue>,
    /// Adds one value.
    #[n(1)]
    pub add: Vec<NameValue>,
    /// Removes all values of the name.
    #[n(2)]
    pub remove: Vec<String>,
}

/// HTTPRequestRedirectFilter. An absent part is taken from the request; the port as the API says
/// (scheme given: its well-known port; else the listener's).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    #[n(0)]
    pub scheme: Option<String>,
    /// Host of the Location.
    #[n(1)]
    pub hostname: Option<String>,
    /// Path of the Location.
    #[n(2)]
    pub path: Option<PathChange>,
    /// Port of the Location.
    #[n(3)]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    #[n(4)]
    pub status: u16,
}

/// HTTPURLRewriteFilter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub struct Rewrite {
    /// Host header sent upstream.
    #[n(0)]
    pub hostname: Option<String>,
    /// Path sent upstream.
    #[n(1)]
    pub path: Option<PathChange>,
}

/// HTTPPathModifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum PathChange {
    /// Replaces the whole path.
    #[n(0)]
    Full(#[n(0)] String),
    /// Replaces the prefix that matched.
    #[n(1)]
    Prefix(#[n(0)] String),
}

/// A backend and its share of the rule's requests: `weight / sum of weights`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct WeightedBackend {
    /// Where to, or why not.
    #[n(0)]
    pub target: BackendTarget,
    /// 0..=1,000,000; 0 gets no requests.
    #[n(1)]
    pub weight: u32,
    /// Filters of the backendRef, after those of the rule.
    #[n(2)]
    pub filters: Vec<Filter>,
}

/// Where a backendRef leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum BackendTarget {
    /// A port of a Service; its endpoints are the fact of this key.
    #[n(0)]
    Backend(#[n(0)] BackendKey),
    /// A reference that is not permitted, of an unknown kind, or whose object or port does not exist: this share
    /// of the requests gets 500 (gateway-api v1 `HTTPRouteRule.backendRefs`).
    #[n(1)]
    Invalid,
}

/// Time limits of a rule in milliseconds; absent means the proxy's own default, 0 means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub struct Timeouts {
    /// Whole request, from its head to the response's end.
    #[n(0)]
    pub request_ms: Option<u64>,
    /// One attempt at one endpoint.
    #[n(1)]
    pub backend_request_ms: Option<u64>,
}
