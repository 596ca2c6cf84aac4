//! A rule, compiled: everything that a request needs is parsed.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use api::{BackendKey, RouteKey, Timestamp};
use api_snapshot::SetHash;
use api_snapshot::config::{
    Attachment, BackendTarget, Filter, HeaderChanges, NameValue, PathMatch, Redirect, Rewrite,
    RouteMatch, RuleSpec, Timeouts,
};
use equivalent::Equivalent;
use http::{HeaderName, HeaderValue, Method};

/// One rule of a route. `B` is what a backend is to the user of the table.
#[derive(Debug)]
pub struct Rule<B> {
    /// Whose rule.
    pub route: RouteKey,
    /// Its position in the route.
    pub index: u16,
    /// `rules[].name`.
    pub name: Option<String>,
    /// Filters in order.
    pub filters: Box<[CompiledFilter]>,
    /// Backends in order.
    pub backends: Box<[RuleBackend<B>]>,
    /// Time limits.
    pub timeouts: Timeouts,
    pub(crate) created_at: Timestamp,
    pub(crate) matches: Box<[CompiledMatch]>,
    pub(crate) attachments: Box<[Attachment]>,
    /// Hash of the entry, taken off the table's hash when the rule goes.
    pub(crate) entry_hash: SetHash,
    total_weight: u64,
}

/// A backend with its share.
#[derive(Debug)]
pub struct RuleBackend<B> {
    /// Where to; none answers 500.
    pub target: Option<B>,
    /// As written, 0 for none.
    pub weight: u32,
    /// Filters of the backendRef.
    pub filters: Box<[CompiledFilter]>,
    /// Sum of the weights up to and including this one.
    cumulative: u64,
}

/// A filter, parsed.
#[derive(Debug)]
pub enum CompiledFilter {
    /// Changes the request's headers.
    RequestHeaders(HeaderOps),
    /// Changes the response's headers.
    ResponseHeaders(HeaderOps),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path.
    Rewrite(Rewrite),
    /// Answers with a status.
    Fail(u16),
}

/// Header changes, parsed.
#[derive(Debug, Default)]
pub struct HeaderOps {
    /// Replaced.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Added.
    pub add: Box<[(HeaderName, HeaderValue)]>,
    /// Removed.
    pub remove: Box<[HeaderName]>,
}

/// A match, parsed.
#[derive(Debug)]
pub(crate) struct CompiledMatch {
    pub(crate) path: PathMatch,
    pub(crate) method: Option<Method>,
    pub(crate) headers: Box<[(HeaderName, String)]>,
    pub(crate) query: Box<[NameValue]>,
}

/// A rule that is equal to another of the same name.
#[derive(Debug)]
pub(crate) struct NamedRule<B>(pub(crate) Arc<Rule<B>>);

impl<B> Clone for NamedRule<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> NamedRule<B> {
    fn name(&self) -> RuleName<'_> {
        RuleName(&self.0.route, self.0.index)
    }
}

impl<B> PartialEq for NamedRule<B> {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl<B> Eq for NamedRule<B> {}

impl<B> Hash for NamedRule<B> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// What a rule is looked up by.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RuleName<'a>(pub(crate) &'a RouteKey, pub(crate) u16);

impl<B> Equivalent<NamedRule<B>> for RuleName<'_> {
    fn equivalent(&self, key: &NamedRule<B>) -> bool {
        *self == key.name()
    }
}

/// A part of an entry is not what translate writes: names and values are checked there.
#[derive(Debug, thiserror::Error)]
#[error("{what} {value:?} is not valid")]
pub(crate) struct RuleError {
    what: &'static str,
    value: String,
}

impl<B> Rule<B> {
    pub(crate) fn compile(
        route: RouteKey,
        index: u16,
        entry_hash: SetHash,
        spec: RuleSpec,
        backends: &mut dyn FnMut(&BackendKey) -> B,
    ) -> Result<Self, RuleError> {
        // Positions of matches are 16 bits wide; the API allows 64.
        if spec.matches.len() > usize::from(u16::MAX) {
            let count = spec.matches.len().to_string();
            return Err(invalid("number of matches", count));
        }
        let mut total_weight = 0;
        let compiled = spec
            .backends
            .into_iter()
            .map(|backend| {
                total_weight += u64::from(backend.weight);
                Ok(RuleBackend {
                    target: match &backend.target {
                        BackendTarget::Backend(key) => Some(backends(key)),
                        _ => None,
                    },
                    weight: backend.weight,
                    filters: compile_filters(backend.filters)?,
                    cumulative: total_weight,
                })
            })
            .collect::<Result<_, RuleError>>()?;
        Ok(Self {
            route,
            index,
            name: spec.name,
            filters: compile_filters(spec.filters)?,
            backends: compiled,
            timeouts: spec.timeouts,
            created_at: spec.created_at,
            matches: spec
                .matches
                .into_iter()
                .map(compile_match)
                .collect::<Result<_, _>>()?,
            attachments: spec.attachments.into(),
            entry_hash,
            total_weight,
        })
    }

    /// Chooses a backend by weight from a uniformly distributed number; none when all weights are 0.
    pub fn pick(&self, random: u64) -> Option<&RuleBackend<B>> {
        self.backends.get(self.pick_index(random)?)
    }

    /// Position of the backend that [`Rule::pick`] chooses.
    pub fn pick_index(&self, random: u64) -> Option<usize> {
        if self.total_weight == 0 {
            return None;
        }
        // Multiply-shift instead of a remainder: unbiased enough (2^-44 for the largest sum) and cheap.
        let point = ((u128::from(random) * u128::from(self.total_weight)) >> 64) as u64;
        self.backends
            .iter()
            .position(|backend| point < backend.cumulative)
    }

    /// The path conditions of its matches, for explanations.
    pub fn paths(&self) -> impl Iterator<Item = &PathMatch> {
        self.matches.iter().map(|m| &m.path)
    }
}

fn compile_match(spec: RouteMatch) -> Result<CompiledMatch, RuleError> {
    Ok(CompiledMatch {
        path: spec.path,
        method: spec
            .method
            .map(|method| {
                Method::from_bytes(method.as_bytes()).map_err(|_| invalid("method", method))
            })
            .transpose()?,
        headers: spec
            .headers
            .into_iter()
            .map(|header| Ok((header_name(header.name)?, header.value)))
            .collect::<Result<_, _>>()?,
        query: spec.query.into(),
    })
}

fn compile_filters(filters: Vec<Filter>) -> Result<Box<[CompiledFilter]>, RuleError> {
    filters
        .into_iter()
        .map(|filter| {
            Ok(match filter {
                Filter::RequestHeaders(changes) => {
                    CompiledFilter::RequestHeaders(compile_headers(changes)?)
                }
                Filter::ResponseHeaders(changes) => {
                    CompiledFilter::ResponseHeaders(compile_headers(changes)?)
                }
                Filter::Redirect(redirect) => CompiledFilter::Redirect(redirect),
                Filter::Rewrite(rewrite) => CompiledFilter::Rewrite(rewrite),
                Filter::Fail(status) => CompiledFilter::Fail(status),
                // A filter of a newer version must not be skipped.
                _ => CompiledFilter::Fail(500),
            })
        })
        .collect()
}

fn compile_headers(changes: HeaderChanges) -> Result<HeaderOps, RuleError> {
    let pairs = |pairs: Vec<NameValue>| {
        pairs
            .into_iter()
            .map(|pair| {
                let value = HeaderValue::from_str(&pair.value)
                    .map_err(|_| invalid("header value", pair.value.clone()))?;
                Ok((header_name(pair.name)?, value))
            })
            .collect::<Result<Box<[_]>, RuleError>>()
    };
    Ok(HeaderOps {
        set: pairs(changes.set)?,
        add: pairs(changes.add)?,
        remove: changes
            .remove
            .into_iter()
            .map(header_name)
            .collect::<Result<_, _>>()?,
    })
}

fn header_name(name: String) -> Result<HeaderName, RuleError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("header name", name))
}

fn invalid(what: &'static str, value: String) -> RuleError {
    RuleError { what, value }
}
