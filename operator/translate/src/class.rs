//! GatewayClass: accepted when it names our controller and, if any, the pool that is served; others are not ours to speak of.

use api::condition::{reasons, types};
use api::{PoolKey, controller_name};
use operator_index::Index;
use operator_objects::spec::{GatewayClass, POOL_GROUP};

use crate::Settings;
use crate::feature::{minor_of, supported};
use crate::problem::Problem;
use crate::status::{ClassStatus, Condition, class_object};

/// Whether a class names our controller.
pub(crate) fn is_ours(class: &GatewayClass) -> bool {
    class.controller_name == controller_name()
}

/// Status of a GatewayClass; none when it does not exist or names another controller.
///
/// A class that is rejected and never had a good form has a status too: whose it is cannot be read.
pub fn translate_class(view: &Index, name: &str, settings: &Settings) -> Option<ClassStatus> {
    let rejected = view.rejected(&class_object(name));
    let accepted = match (view.class(name), rejected) {
        (Some(class), _) if !is_ours(class) => return None,
        (None, None) => return None,
        (_, Some(rejected)) => Condition::no(
            types::ACCEPTED,
            reasons::INVALID,
            rejected.message.clone(),
            rejected.generation,
        ),
        (Some(class), None) => match parameters_problem(view, class, settings) {
            Some(problem) => Condition::no(
                types::ACCEPTED,
                problem.reason,
                problem.message,
                class.meta.generation,
            ),
            None => Condition::yes(
                types::ACCEPTED,
                reasons::ACCEPTED,
                match &settings.pool {
                    Some(pool) => format!("served by Shardway, ShardPool {pool}"),
                    None => "served by Shardway".to_owned(),
                },
                class.meta.generation,
            ),
        },
    };
    let version = supported_version(view, accepted.observed_generation);
    Some(ClassStatus {
        conditions: vec![accepted, version],
        supported_features: supported(view, settings),
    })
}

/// What is wrong with the parameters of a class.
///
/// Source: gateway-api v1 `GatewayClassSpec.parametersRef`, `GatewayClassReasonInvalidParameters`.
pub(crate) fn parameters_problem(
    view: &Index,
    class: &GatewayClass,
    settings: &Settings,
) -> Option<Problem> {
    let of = class.parameters_ref.as_ref()?;
    let given = match &of.namespace {
        Some(namespace) => format!("{} {namespace}/{}", of.kind, of.name),
        None => format!("{} {}", of.kind, of.name),
    };
    let fix = match &settings.pool {
        Some(pool) => format!("name ShardPool {pool} of group {POOL_GROUP} or remove it"),
        None => "remove it".to_owned(),
    };
    let text = if of.group != POOL_GROUP || of.kind != "ShardPool" {
        format!("{given} of group {:?} is not supported; {fix}", of.group)
    } else {
        let named = PoolKey::new(of.namespace.as_deref().unwrap_or_default(), &of.name);
        match &settings.pool {
            Some(pool) if *pool == named => match view.pool(pool) {
                Some(_) => return None,
                None => format!("{given} does not exist; create it or remove the reference"),
            },
            _ => format!("{given} is not served by this installation; {fix}"),
        }
    };
    let message =
        format!("spec.parametersRef: {text}. Gateways of this class are served with defaults");
    Some(Problem::new(reasons::INVALID_PARAMETERS, message))
}

/// Minor versions of v1 whose CRDs are tested.
const TESTED: std::ops::RangeInclusive<u32> = 6..=7;

/// Kinds whose CRD is looked for.
const KINDS: [&str; 4] = ["GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant"];

/// Whether the installed CRDs are of a version that is tested; with others, what they have in common is served.
///
/// Source: gateway-api v1 `GatewayClassConditionStatusSupportedVersion`.
fn supported_version(view: &Index, generation: i64) -> Condition {
    let yes = |text: String| {
        Condition::yes(
            types::SUPPORTED_VERSION,
            reasons::SUPPORTED_VERSION,
            text,
            generation,
        )
    };
    if view.crds().next().is_none() {
        return yes("objects are read by the schemas of Gateway API v1.7.0".to_owned());
    }
    let (mut versions, mut others) = (Vec::new(), Vec::new());
    for crd in view.crds() {
        let version = crd.bundle_version.as_deref().unwrap_or("none");
        let channel = crd.channel.as_deref().unwrap_or("no channel");
        let text = format!("{version} ({channel})");
        if !minor_of(version).is_some_and(|minor| TESTED.contains(&minor)) {
            others.push(format!("{} {text}", crd.kind));
        } else if !versions.contains(&text) {
            versions.push(text);
        }
    }
    let missing: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| view.crd(kind).is_none())
        .collect();
    let missing = match missing.as_slice() {
        [] => String::new(),
        kinds => format!("; not installed: {}", kinds.join(", ")),
    };
    if others.is_empty() {
        return yes(format!("CRDs have {}{missing}", versions.join(", ")));
    }
    Condition::no(
        types::SUPPORTED_VERSION,
        reasons::UNSUPPORTED_VERSION,
        format!(
            "CRDs of versions that are not tested: {}; install those of Gateway API v1.{} or v1.{}. What they have in common is served{missing}",
            others.join(", "),
            TESTED.start(),
            TESTED.end(),
        ),
        generation,
    )
}

impl ClassStatus {
    /// What is left of a class whose translation panicked.
    pub(crate) fn quarantined(view: &Index, name: &str, message: &str) -> Self {
        let generation = view.class(name).map_or(0, |class| class.meta.generation);
        let accepted = Condition::no(types::ACCEPTED, reasons::QUARANTINED, message, generation);
        Self {
            conditions: vec![accepted],
            supported_features: Vec::new(),
        }
    }
}
