//! Why the proxy itself answered or ended a request: one cause each, named by Envoy's response flags.

use http::StatusCode;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $flag:literal, $status:ident, $text:literal;)*) => {
        /// A cause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Cause { $($(#[$doc])* $name),* }

        impl Cause {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// Short code for log and metric.
            pub(crate) fn flag(self) -> &'static str {
                match self { $(Self::$name => $flag),* }
            }

            /// Status that the client gets, when nothing was sent yet.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }

            /// What the client reads.
            pub(crate) fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

causes! {
    /// No listener of the port takes the host.
    NoListener = "NFCF", NOT_FOUND, "no listener for this host\n";
    /// No route takes the request.
    NoRoute = "NR", NOT_FOUND, "no route for this request\n";
    /// The host belongs to another listener than the server name of the TLS handshake.
    Misdirected = "MDR", MISDIRECTED_REQUEST, "host does not belong to this connection\n";
    /// The request is malformed.
    BadRequest = "DPE", BAD_REQUEST, "malformed request\n";
    /// The request has more header lines than it may.
    HeadTooLarge = "HTL", REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header lines\n";
    /// The request's body stopped coming.
    ClientTimeout = "SI", REQUEST_TIMEOUT, "request body did not come in time\n";
    /// Neither tunnels nor upgrades are served.
    NotServed = "NSV", NOT_IMPLEMENTED, "upgrade and CONNECT are not served\n";
    /// The backendRef does not resolve.
    InvalidBackend = "IB", INTERNAL_SERVER_ERROR, "backend reference does not resolve\n";
    /// A filter that could not be resolved.
    FilterFailed = "FF", INTERNAL_SERVER_ERROR, "a filter of this route cannot be served\n";
    /// No endpoint takes requests.
    NoEndpoint = "UH", SERVICE_UNAVAILABLE, "no endpoint for this backend\n";
    /// Too many connections to the endpoint.
    Overflow = "UO", SERVICE_UNAVAILABLE, "too many connections to this backend\n";
    /// No endpoint could be connected to.
    ConnectFailed = "UF", SERVICE_UNAVAILABLE, "cannot connect to this backend\n";
    /// The endpoint ended the connection before its response's head.
    UpstreamClosed = "UC", BAD_GATEWAY, "backend closed the connection\n";
    /// The endpoint's response is malformed.
    UpstreamProtocol = "UPE", BAD_GATEWAY, "backend sent a malformed response\n";
    /// The endpoint did not answer in time.
    UpstreamTimeout = "UT", GATEWAY_TIMEOUT, "backend did not answer in time\n";
    /// The endpoint ended the connection within its response's body.
    UpstreamTruncated = "UR", BAD_GATEWAY, "";
    /// The client went away before the end of the response.
    DownstreamClosed = "DC", BAD_REQUEST, "";
}

/// Why the proxy itself ended a connection, or never served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionCause {
    /// Too many are open.
    Limit,
    /// It could not be accepted, for want of file descriptors or memory; it waits. Counted for each attempt.
    Accept,
    /// The TLS handshake failed.
    Tls,
    /// The TLS handshake did not end in time.
    TlsTimeout,
    /// The client left within the TLS handshake, as probes of load balancers do.
    TlsLeft,
    /// No request began in time.
    NoRequest,
    /// An HTTP/2 client reset too many requests too soon.
    Resets,
}

impl ConnectionCause {
    pub(crate) const ALL: &[Self] = &[
        Self::Limit,
        Self::Accept,
        Self::Tls,
        Self::TlsTimeout,
        Self::TlsLeft,
        Self::NoRequest,
        Self::Resets,
    ];

    /// Short name for log and metric.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Accept => "accept",
            Self::Tls => "tls",
            Self::TlsTimeout => "tls_timeout",
            Self::TlsLeft => "tls_left",
            Self::NoRequest => "no_request",
            Self::Resets => "resets",
        }
    }

    /// Whether it is worth a line for each: not what clients do all day without harm.
    pub(crate) fn is_logged(self) -> bool {
        !matches!(self, Self::TlsLeft | Self::NoRequest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_unique() {
        let flags: std::collections::BTreeSet<_> =
            Cause::ALL.iter().map(|cause| cause.flag()).collect();
        assert_eq!(flags.len(), Cause::ALL.len());
        let flags: std::collections::BTreeSet<_> = ConnectionCause::ALL
            .iter()
            .map(|cause| cause.flag())
            .collect();
        assert_eq!(flags.len(), ConnectionCause::ALL.len());
    }
}
