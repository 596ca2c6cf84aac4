//! In a cluster: what each Gateway needs is told to the infrastructure, what it has comes back; and the pool's size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{GatewayKey, PoolKey, Revision};
use api_telemetry::Chain;
use api_telemetry::metrics::Source;
use operator_infrastructure::{
    GatewayNeeds, Infrastructure, Observed, PodSettings, PoolController, PoolSpec, ServiceSettings,
    Settings, WantedAddress,
};
use operator_kubernetes::Client;
use operator_status::{GatewayFacts, StatusAddress};
use operator_translate::status::gateway_object;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::pipeline::Pipeline;

/// How long a start waits for the ShardPool before it goes on with what is committed.
const POOL_WITHIN: Duration = Duration::from_secs(10);

/// Services of Gateways, and the pool that serves them.
pub(crate) struct Services {
    infrastructure: Infrastructure,
    observed: mpsc::Receiver<Observed>,
    controller: PoolController,
    pool: watch::Receiver<Option<PoolSpec>>,
    /// How Services look, unless a Gateway says otherwise.
    settings: ServiceSettings,
    /// What Gateways have.
    has: BTreeMap<GatewayKey, Observed>,
    /// Gateways whose needs may be others than were told.
    stale: BTreeSet<GatewayKey>,
    /// What was told while this replica leads.
    told: BTreeMap<GatewayKey, GatewayNeeds>,
}

/// What the infrastructure has to say.
pub(super) enum News {
    /// Of a Gateway.
    Observed(Observed),
    /// Of the pool.
    Pool(PoolSpec),
}

impl Services {
    /// Starts to watch. Nothing is written before this replica leads.
    pub(crate) fn start(client: &Client, config: &Config, pool: &PoolKey) -> anyhow::Result<Self> {
        let settings = Settings {
            pool: pool.clone(),
            namespaces: config.namespaces.clone(),
        };
        let (infrastructure, observed) = Infrastructure::start(client.clone(), settings);
        let replica = config.pod_name.clone().unwrap_or_default();
        let pods = PodSettings {
            image: config.shard_image.clone(),
            pull_policy: None,
            service_account: config.shard_service_account.clone(),
            operator: config.stream_of_replicas()?,
            trust: "shardway-trust".into(),
            audience: operator_identity::kube::AUDIENCE.into(),
            log_format: config.log_format.as_str().to_owned(),
        };
        let controller = PoolController::start(client.clone(), pool.clone(), pods, &replica);
        Ok(Self {
            infrastructure,
            observed,
            pool: controller.specs(),
            controller,
            settings: ServiceSettings::default(),
            has: BTreeMap::new(),
            stale: BTreeSet::new(),
            told: BTreeMap::new(),
        })
    }

    /// What has been written.
    pub(crate) fn metrics(&self) -> Arc<dyn Source> {
        self.infrastructure.metrics()
    }

    /// What a Gateway has, for its status.
    pub(crate) fn add_to(&self, gateway: &GatewayKey, facts: &mut GatewayFacts) {
        facts.has_service = true;
        let Some(has) = self.has.get(gateway) else {
            return;
        };
        facts.addresses = has
            .addresses
            .iter()
            .map(|address| StatusAddress {
                kind: address.kind.as_str(),
                value: address.value.clone(),
            })
            .collect();
        if let Some(problem) = &has.problem {
            facts.not_placed = Some((problem.reason, problem.message.clone()));
        }
    }
}

/// Waits for news; for ever where there are no Services.
///
/// Cancel safety: safe.
pub(super) async fn news(services: &mut Option<Services>) -> News {
    let Some(services) = services else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            Some(observed) = services.observed.recv() => return News::Observed(observed),
            Ok(()) = services.pool.changed() => {
                let spec = services.pool.borrow_and_update().clone();
                // One that is gone keeps what it had: nobody is cut off because an object was deleted.
                if let Some(spec) = spec {
                    return News::Pool(spec);
                }
            }
            else => return std::future::pending().await,
        }
    }
}

impl Pipeline {
    /// Waits until the pool is known, for a while: placed without it, Gateways would move at once.
    pub(super) async fn wait_for_pool(&mut self) {
        let Some(services) = &mut self.services else {
            return;
        };
        let known = services.pool.wait_for(Option::is_some);
        let spec = match tokio::time::timeout(POOL_WITHIN, known).await {
            Ok(Ok(spec)) => spec.clone(),
            _ => None,
        };
        match spec {
            Some(spec) => self.pool_spec(spec),
            None => tracing::warn!(
                "the ShardPool is not known; what is committed serves on, and a pool of two is assumed for what is new"
            ),
        }
    }

    pub(super) fn news(&mut self, news: News) {
        match news {
            News::Observed(observed) => {
                let gateway = observed.gateway.clone();
                let led_to = observed.led_to.clone();
                if let Some(services) = &mut self.services {
                    services.has.insert(gateway.clone(), observed);
                }
                if self.leads {
                    if let Some(shards) = led_to {
                        self.endpoints_written(&gateway, &shards);
                    }
                    self.write_statuses([gateway_object(&gateway)].into());
                }
            }
            News::Pool(spec) => self.pool_spec(spec),
        }
    }

    fn pool_spec(&mut self, spec: PoolSpec) {
        let per_gateway = usize::try_from(spec.shards_per_gateway).unwrap_or(usize::MAX);
        if let Some(services) = &mut self.services
            && services.settings != spec.service
        {
            services.settings = spec.service;
            services.stale = self.translation.gateways().cloned().collect();
        }
        self.pool_changed(spec.shards, per_gateway);
    }

    /// What these Gateways need is to be told anew.
    pub(super) fn needs_changed(&mut self, gateways: impl IntoIterator<Item = GatewayKey>) {
        if let Some(services) = &mut self.services {
            services.stale.extend(gateways);
        }
    }

    /// Begins to write, or leaves it to another replica.
    pub(super) fn lead_services(&mut self, leads: bool) {
        let Some(services) = &mut self.services else {
            return;
        };
        services.stale.clear();
        services.told.clear();
        if leads {
            services.stale = self.translation.gateways().cloned().collect();
        }
        services.infrastructure.lead(leads);
        services.controller.lead(leads);
    }

    /// All Gateways that there are have been told: whatever else is there is nobody's.
    pub(super) fn services_are_complete(&mut self) {
        self.tell_needs();
        if let Some(services) = &self.services {
            services.infrastructure.complete();
        }
    }

    /// Tells what has changed.
    pub(super) fn tell_needs(&mut self) {
        let Some(mut services) = self.services.take_if(|services| !services.stale.is_empty())
        else {
            return;
        };
        let mut is_news = false;
        for gateway in std::mem::take(&mut services.stale) {
            if self.translation.gateway_status(&gateway).is_none() {
                services.has.remove(&gateway);
                services.told.remove(&gateway);
                services.infrastructure.set(gateway, None);
                is_news = true;
                continue;
            }
            let asked = self.asked(&services.settings, &gateway);
            // One that asks for what it cannot have is served as it was; nobody knows how that was after a restart, so that
            // just its address stays.
            let told = services.told.get(&gateway);
            let Some(asked) = asked.or_else(|| told.cloned()) else {
                services.infrastructure.keep(gateway);
                continue;
            };
            let needs = self.served(asked);
            // Most changes are of routes alone.
            if told == Some(&needs) {
                continue;
            }
            services.told.insert(gateway.clone(), needs.clone());
            services.infrastructure.set(gateway, Some(needs));
            is_news = true;
        }
        self.services = Some(services);
        if is_news {
            self.tell_pool();
        }
    }

    /// Answers moves that wait for endpoints which were written before they began to wait.
    pub(super) fn look_at_endpoints(&mut self) {
        for gateway in self.waiting_for_endpoints() {
            let services = self.services.as_ref();
            let has = services.and_then(|services| services.has.get(&gateway));
            if let Some(shards) = has.and_then(|has| has.led_to.clone()) {
                self.endpoints_written(&gateway, &shards);
            }
        }
    }

    /// Tells what the pool is used for: shards that are in use are not taken away. Cost: O(Gateways).
    pub(super) fn tell_pool(&self) {
        if let Some(services) = &self.services {
            let highest = self.allocator.highest_shard();
            services.controller.in_use(highest.map(|shard| shard.0));
            let gateways = self.translation.gateways().count();
            let gateways = u32::try_from(gateways).unwrap_or(u32::MAX);
            services.controller.gateways(gateways);
        }
    }

    /// What a Gateway asks for, without where it is served; none for one that asks for what it cannot have.
    fn asked(&self, settings: &ServiceSettings, gateway: &GatewayKey) -> Option<GatewayNeeds> {
        let wants = self.translation.infrastructure(gateway)?;
        let settings = match &wants.parameters {
            None => settings.clone(),
            Some(parameters) => match settings.overridden(parameters) {
                Ok(settings) => settings,
                Err(error) => {
                    // Checked before; its status says so.
                    tracing::warn!(%gateway, error = %Chain(&error), "parameters of the gateway's Service cannot be used");
                    return None;
                }
            },
        };
        let addresses = wants.addresses.iter().map(|address| WantedAddress {
            type_: address.kind.clone(),
            value: address.value.clone().unwrap_or_default(),
        });
        Some(GatewayNeeds {
            gateway: gateway.clone(),
            uid: wants.uid.clone(),
            ports: BTreeMap::new(),
            shards: Vec::new(),
            leaving: Vec::new(),
            labels: wants.labels.clone(),
            annotations: wants.annotations.clone(),
            addresses: addresses.collect(),
            settings,
        })
    }

    /// The same with where it is served now.
    fn served(&self, asked: GatewayNeeds) -> GatewayNeeds {
        let gateway = &asked.gateway;
        let left_out = self.left_out(gateway);
        let bindings = self.allocator.bindings(gateway).into_iter().flatten();
        let ports = bindings
            .filter(|(port, _)| !left_out.contains(port))
            .map(|(port, binding)| (*port, binding.target_port))
            .collect();
        // Before that nobody serves it: a client would be refused.
        let is_active = {
            let snapshot = self.machine.snapshot.read();
            let chain = snapshot.gateway(gateway);
            chain.is_some_and(|chain| chain.active() != Revision(0))
        };
        let placement = self.allocator.placement(gateway).filter(|_| is_active);
        let (shards, leaving) =
            placement.map_or_else(Default::default, |placed| (placed.shards, placed.leaving));
        GatewayNeeds {
            ports,
            shards,
            leaving,
            ..asked
        }
    }
}
