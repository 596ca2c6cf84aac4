//! Values of all sources at one moment, grouped by metric, so that both exporters see the same numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::metrics::{Desc, HistogramValue, Labels, Sink, Source};

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(HistogramValue),
}

pub(crate) type OwnedLabels = Vec<(&'static str, String)>;

/// All series of one metric.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) desc: &'static Desc,
    pub(crate) series: BTreeMap<OwnedLabels, Value>,
}

#[derive(Default)]
struct Gatherer {
    metrics: BTreeMap<&'static str, Gathered>,
}

/// Asks every source. Series that several sources hand out are added up (histograms, counters) or the last one
/// counts (gauges).
pub(crate) fn gather(sources: &[Arc<dyn Source>]) -> Vec<Gathered> {
    let mut gatherer = Gatherer::default();
    for source in sources {
        source.collect(&mut gatherer);
    }
    gatherer.metrics.into_values().collect()
}

impl Gatherer {
    fn put(&mut self, desc: &'static Desc, labels: Labels<'_>, value: Value) {
        let metric = self.metrics.entry(desc.name).or_insert_with(|| Gathered {
            desc,
            series: BTreeMap::new(),
        });
        let labels = labels
            .iter()
            .map(|(name, v)| (*name, (*v).to_owned()))
            .collect();
        let merged = match (metric.series.remove(&labels), value) {
            (Some(Value::Counter(old)), Value::Counter(new)) => Value::Counter(old + new),
            (Some(Value::Histogram(mut old)), Value::Histogram(new)) => {
                for (sum, bucket) in old.buckets.iter_mut().zip(new.buckets) {
                    *sum += bucket;
                }
                old.sum += new.sum;
                Value::Histogram(old)
            }
            (_, new) => new,
        };
        metric.series.insert(labels, merged);
    }
}

impl Sink for Gatherer {
    fn counter(&mut self, desc: &'static Desc, labels: Labels<'_>, value: u64) {
        self.put(desc, labels, Value::Counter(value));
    }

    fn gauge(&mut self, desc: &'static Desc, labels: Labels<'_>, value: f64) {
        self.put(desc, labels, Value::Gauge(value));
    }

    fn histogram(&mut self, desc: &'static Desc, labels: Labels<'_>, value: &HistogramValue) {
        self.put(desc, labels, Value::Histogram(value.clone()));
    }
}
