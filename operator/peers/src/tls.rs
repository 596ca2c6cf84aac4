//! How connections between replicas are protected.

use std::sync::Arc;

use operator_identity::{Identity, TlsSource};

/// How connections between replicas are protected.
#[derive(Clone)]
pub enum PeerTls {
    /// Mutual TLS. Settings are asked for anew for each connection, so that renewed certificates count from the next one on.
    Mutual(Arc<dyn TlsSource>),
    /// Not at all, and everybody is believed: loopback addresses alone, on both sides.
    LoopbackOnly,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// By its certificate.
    Known(Identity),
    /// Its certificate says nothing that is understood.
    Unknown,
    /// On the loopback interface, without TLS.
    Local,
}

impl Caller {
    pub(crate) fn of(certificates: Option<&[rustls_pki_types::CertificateDer<'_>]>) -> Self {
        let first = certificates.and_then(<[_]>::first);
        first
            .and_then(Identity::of)
            .map_or(Self::Unknown, Self::Known)
    }

    /// Whether this may be the replica of this ordinal.
    pub(crate) fn is_replica(self, ordinal: u64) -> bool {
        self == Self::Known(Identity::Operator(ordinal)) || self == Self::Local
    }

    /// Whether this may be a replica of the operator at all.
    pub(crate) fn is_some_replica(self) -> bool {
        matches!(self, Self::Known(Identity::Operator(_)) | Self::Local)
    }
}
