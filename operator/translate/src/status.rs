//! Statuses as translate knows them. `operator/status` adds what only the running system knows: transition times,
//! addresses, `Programmed` and `shardway.dev/Propagated`.

use api::{GatewayKey, ObjectKey, RouteKey};
use operator_objects::spec::{GroupKind, ParentRef};
use serde::Serialize;

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

/// `metav1.Condition` without its transition time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// One of [`api::condition::types`].
    #[serde(rename = "type")]
    pub type_: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One of [`api::condition::reasons`].
    pub reason: &'static str,
    /// Object, field and fix, for people. At most [`MESSAGE_CHARS_MAX`] characters.
    pub message: String,
    /// `metadata.generation` that this was decided on.
    pub observed_generation: i64,
}

/// Longest message of a condition; the API allows 32,768 bytes, people read less.
pub const MESSAGE_CHARS_MAX: usize = 2048;

impl Condition {
    /// A condition that holds.
    pub fn yes(
        type_: &'static str,
        reason: &'static str,
        message: impl Into<String>,
        generation: i64,
    ) -> Self {
        Self::new(
            type_,
            ConditionStatus::True,
            reason,
            message.into(),
            generation,
        )
    }

    /// A condition that does not hold.
    pub fn no(
        type_: &'static str,
        reason: &'static str,
        message: impl Into<String>,
        generation: i64,
    ) -> Self {
        Self::new(
            type_,
            ConditionStatus::False,
            reason,
            message.into(),
            generation,
        )
    }

    fn new(
        type_: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        mut message: String,
        observed_generation: i64,
    ) -> Self {
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
        }
        Self {
            type_,
            status,
            reason,
            message,
            observed_generation,
        }
    }
}

/// The condition of a type, if it is set.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is set and holds.
pub fn holds(conditions: &[Condition], type_: &str) -> bool {
    condition(conditions, type_).is_some_and(|condition| condition.status == ConditionStatus::True)
}

/// Status of a GatewayClass of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassStatus {
    /// Accepted, SupportedVersion.
    pub conditions: Vec<Condition>,
    /// Feature names in ascending order.
    pub supported_features: Vec<&'static str>,
}

/// Status of a Gateway of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Accepted, then ResolvedRefs.
    pub conditions: Vec<Condition>,
    /// One for each listener of the spec, in its order.
    pub listeners: Vec<ListenerStatus>,
}

/// Status of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it takes.
    #[serde(serialize_with = "group_kinds")]
    pub supported_kinds: Vec<GroupKind>,
    /// Routes that are accepted on it.
    pub attached_routes: u32,
    /// Accepted, ResolvedRefs, Conflicted and, when it holds, OverlappingTLSConfig.
    pub conditions: Vec<Condition>,
    /// Whether it is in the snapshot: `Programmed` can become true. Not a field of the API.
    #[serde(skip)]
    pub servable: bool,
}

/// Status of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// One for each parentRef that is a Gateway of ours, in the order of the spec.
    pub parents: Vec<ParentStatus>,
}

/// Status of a route at one parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parentRef as the route has it.
    #[serde(serialize_with = "parent_ref")]
    pub parent_ref: ParentRef,
    /// [`api::controller_name`].
    pub controller_name: &'static str,
    /// Accepted, ResolvedRefs and, when it holds, PartiallyInvalid.
    pub conditions: Vec<Condition>,
    /// The Gateway that the parentRef names. Not a field of the API.
    #[serde(skip)]
    pub gateway: GatewayKey,
    /// Whether any rule is served by the Gateway through this parent. Not a field of the API.
    #[serde(skip)]
    pub served: bool,
}

/// The status of one object.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ObjectStatus<'a> {
    /// Of a GatewayClass.
    Class(&'a ClassStatus),
    /// Of a Gateway.
    Gateway(&'a GatewayStatus),
    /// Of a route.
    Route(&'a RouteStatus),
}

/// Object key of a GatewayClass.
pub fn class_object(name: &str) -> ObjectKey {
    ObjectKey::new(api::GATEWAY_GROUP, "GatewayClass", "", name)
}

/// Object key of a Gateway.
pub fn gateway_object(key: &GatewayKey) -> ObjectKey {
    ObjectKey::new(api::GATEWAY_GROUP, "Gateway", &key.namespace, &key.name)
}

/// Object key of a route.
pub fn route_object(key: &RouteKey) -> ObjectKey {
    key.object()
}

fn group_kinds<S: serde::Serializer>(
    kinds: &[GroupKind],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct View<'a> {
        group: &'a str,
        kind: &'a str,
    }
    serializer.collect_seq(kinds.iter().map(|kind| View {
        group: &kind.group,
        kind: &kind.kind,
    }))
}

fn parent_ref<S: serde::Serializer>(parent: &ParentRef, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct View<'a> {
        group: &'a str,
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        section_name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    }
    let view = View {
        group: &parent.group,
        kind: &parent.kind,
        namespace: parent.namespace.as_deref(),
        name: &parent.name,
        section_name: parent.section_name.as_deref(),
        port: parent.port,
    };
    view.serialize(serializer)
}
