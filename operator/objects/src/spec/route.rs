//! HTTPRoute. Names of headers and methods are normalised (lower, upper case); everything else is as written.

use super::Meta;

/// HTTPRoute.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Metadata.
    pub meta: Meta,
    /// `spec.parentRefs`.
    pub parent_refs: Vec<ParentRef>,
    /// `spec.hostnames`, lower-case.
    pub hostnames: Vec<String>,
    /// `spec.rules`.
    pub rules: Vec<HttpRouteRule>,
    /// Fields of the spec that are set and not served yet.
    pub unsupported: Vec<String>,
}

/// One of `spec.parentRefs`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, if given; the route's otherwise.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// `sectionName`.
    pub section_name: Option<String>,
    /// `port`.
    pub port: Option<u16>,
}

/// One of `spec.rules`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpRouteRule {
    /// Name.
    pub name: Option<String>,
    /// Matches; empty means all requests.
    pub matches: Vec<HttpMatch>,
    /// Filters.
    pub filters: Vec<HttpFilter>,
    /// Backends.
    pub backend_refs: Vec<HttpBackendRef>,
    /// `timeouts.request`, a Gateway API duration in milliseconds; 0 means none.
    pub request_timeout_ms: Option<u64>,
    /// `timeouts.backendRequest`.
    pub backend_request_timeout_ms: Option<u64>,
    /// Fields of the rule that are set and not served yet (`retry`, `sessionPersistence`).
    pub unsupported: Vec<String>,
}

/// One of `rules[].matches`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMatch {
    /// Path.
    pub path: HttpPathMatch,
    /// Method, upper-case.
    pub method: Option<String>,
    /// Headers; the first of equal names counts.
    pub headers: Vec<HttpValueMatch>,
    /// Query parameters; the first of equal names counts.
    pub query: Vec<HttpValueMatch>,
}

/// Path match with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPathMatch {
    /// `Exact`, `PathPrefix` or `RegularExpression`.
    pub kind: String,
    /// Value.
    pub value: String,
}

/// Header or query-parameter match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpValueMatch {
    /// `Exact` or `RegularExpression`.
    pub kind: String,
    /// Name; lower-case for headers.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFilter {
    /// `RequestHeaderModifier`.
    RequestHeaderModifier(HeaderModifier),
    /// `ResponseHeaderModifier`.
    ResponseHeaderModifier(HeaderModifier),
    /// `RequestRedirect`.
    RequestRedirect(RequestRedirect),
    /// `URLRewrite`.
    UrlRewrite(UrlRewrite),
    /// `ExtensionRef` to this group, kind and name.
    ExtensionRef {
        /// API group.
        group: String,
        /// Kind.
        kind: String,
        /// Name.
        name: String,
    },
    /// A type of the API that is not served yet (`RequestMirror`, `CORS`, `ExternalAuth`).
    NotYet(String),
}

/// Header changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// `(name, value)`, names lower-case.
    pub set: Vec<(String, String)>,
    /// `(name, value)`, names lower-case.
    pub add: Vec<(String, String)>,
    /// Names, lower-case.
    pub remove: Vec<String>,
}

/// `requestRedirect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRedirect {
    /// Scheme.
    pub scheme: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port.
    pub port: Option<u16>,
    /// Status code, defaulted to 302.
    pub status_code: u16,
}

/// `urlRewrite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRewrite {
    /// Host name.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// `HTTPPathModifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`.
    Prefix(String),
}

/// One of `backendRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBackendRef {
    /// API group; empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, if given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port.
    pub port: Option<u16>,
    /// Weight, defaulted to 1.
    pub weight: u32,
    /// Filters.
    pub filters: Vec<HttpFilter>,
}
