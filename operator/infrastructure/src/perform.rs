//! Writes to the API server.

use std::fmt::Debug;
use std::time::Duration;

use api::PoolKey;
use api::condition::reasons;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;

use crate::known::{Object, Place};
use crate::labels::is_ours;
use crate::needs::Problem;
use crate::world::Write;

/// Our name as a writer of fields.
pub(crate) const FIELD_MANAGER: &str = "shardway";
/// Time for one request. A lost connection to a load balancer before the API server says nothing.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// When something is in the way that we do not see going.
const IN_THE_WAY_AGAIN: Duration = Duration::from_secs(30);
/// Label of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Written {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    ServiceDeleted(Place, String),
    SliceDeleted(Place, String),
}

/// A write that was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For the log.
    pub(crate) error: String,
    /// For the user; none when trying again may help by itself.
    pub(crate) problem: Option<Problem>,
    /// Not again before that.
    pub(crate) again: Duration,
}

/// What came of the writes of one place.
pub(crate) struct Done {
    pub(crate) place: Place,
    pub(crate) written: Vec<Written>,
    pub(crate) failure: Option<Failure>,
}

/// Writes, one after the other, until one fails.
pub(crate) async fn perform(
    client: Client,
    pool: PoolKey,
    place: Place,
    writes: Vec<Write>,
) -> Done {
    let mut written = Vec::with_capacity(writes.len());
    for write in writes {
        match one(&client, &pool, write).await {
            Ok(of) => written.push(of),
            Err(failure) => {
                return Done {
                    place,
                    written,
                    failure: Some(failure),
                };
            }
        }
    }
    Done {
        place,
        written,
        failure: None,
    }
}

async fn one(client: &Client, pool: &PoolKey, write: Write) -> Result<Written, Failure> {
    let ours = |meta: &ObjectMeta| is_ours(pool, meta);
    match write {
        Write::Service(service, uid) => {
            let service = put(client, ours, *service, uid).await?;
            Ok(Written::Service(Box::new(service)))
        }
        Write::Slice(slice, uid) => {
            let slice = put(client, ours, *slice, uid).await?;
            Ok(Written::Slice(Box::new(slice)))
        }
        Write::DeleteService(place, uid) => {
            let left = delete::<Service>(client, &place, &uid).await?;
            Ok(match left {
                Some(service) => Written::Service(Box::new(service)),
                None => Written::ServiceDeleted(place, uid),
            })
        }
        Write::DeleteSlice(place, uid) => {
            let left = delete::<EndpointSlice>(client, &place, &uid).await?;
            Ok(match left {
                Some(slice) => Written::Slice(Box::new(slice)),
                None => Written::SliceDeleted(place, uid),
            })
        }
    }
}

/// Writes an object over the one with the uid, or a new one. One of the same name that is not ours stays as it is.
///
/// A new one is applied as well, not created: a field that was created is not taken away when it is not applied any more.
pub(crate) async fn put<K>(
    client: &Client,
    is_ours: impl Fn(&ObjectMeta) -> bool,
    mut object: K,
    uid: Option<String>,
) -> Result<K, Failure>
where
    K: Object
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
{
    let place = Place::of(Object::meta(&object));
    let api: Api<K> = Api::namespaced(client.clone(), &place.namespace);
    if uid.is_none()
        && let Some(there) = within(api.get_metadata_opt(&place.name)).await?
        && !is_ours(&there.metadata)
    {
        let kind = K::kind(&());
        let message = format!(
            "{kind} {}/{} is there already and was not made by Shardway; delete it, or take another name",
            place.namespace, place.name
        );
        return Err(Failure {
            error: message.clone(),
            problem: Some(Problem {
                reason: reasons::ADDRESS_NOT_ASSIGNED,
                message,
            }),
            again: IN_THE_WAY_AGAIN,
        });
    }
    // One that has its name since is left alone.
    Object::meta_mut(&mut object).uid = uid;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within(api.patch(&place.name, &params, &Patch::Apply(&object))).await
}

/// Deletes an object. Gives it when it has to wait for somebody else before it goes.
async fn delete<K>(client: &Client, place: &Place, uid: &str) -> Result<Option<K>, Failure>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &place.namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    });
    let deleted = tokio::time::timeout(REQUEST_WITHIN, api.delete(&place.name, &params)).await;
    match deleted {
        Ok(Ok(answer)) => Ok(answer.left().filter(|object| {
            let finalizers = object.meta().finalizers.as_ref();
            finalizers.is_some_and(|of| !of.is_empty())
        })),
        // Gone, or another one has its name by now.
        Ok(Err(kube::Error::Api(status))) if [404, 409].contains(&status.code) => Ok(None),
        Ok(Err(error)) => Err(failure(error)),
        Err(_) => Err(slow()),
    }
}

/// Zone of a node; none when it has none.
///
/// # Errors
/// The node, when it cannot be read: then its shards have no zone for a while.
pub(crate) async fn zone(client: Client, node: String) -> Result<(String, Option<String>), String> {
    let api: Api<Node> = Api::all(client);
    match within(api.get_metadata_opt(&node)).await {
        Ok(found) => {
            let labels = found.and_then(|found| found.metadata.labels);
            let zone = labels.and_then(|mut labels| labels.remove(ZONE));
            Ok((node, zone))
        }
        Err(failure) => {
            let error = failure.error;
            tracing::warn!(
                node,
                error,
                "zone of a node cannot be read; its shards have none"
            );
            Err(node)
        }
    }
}

pub(crate) async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_WITHIN, request).await {
        Ok(answer) => answer.map_err(failure),
        Err(_) => Err(slow()),
    }
}

fn slow() -> Failure {
    Failure {
        error: format!("no answer within {} s", REQUEST_WITHIN.as_secs()),
        problem: None,
        again: Duration::ZERO,
    }
}

fn failure(error: kube::Error) -> Failure {
    let kube::Error::Api(status) = &error else {
        return Failure {
            error: api_telemetry::Chain(&error).to_string(),
            problem: None,
            again: Duration::ZERO,
        };
    };
    let reason = match status.code {
        // A quota, a policy, or rights that we lack.
        403 => Some(reasons::NO_RESOURCES),
        422 if status.message.contains("clusterIP") => Some(reasons::ADDRESS_NOT_USABLE),
        400 | 422 => Some(reasons::INVALID),
        _ => None,
    };
    let after = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    Failure {
        problem: reason.map(|reason| Problem {
            reason,
            message: format!(
                "the API server refuses what the Gateway needs: {}",
                status.message
            ),
        }),
        error: status.message.clone(),
        again: Duration::from_secs(u64::from(after)),
    }
}
