//! Following and leading: a replica that follows keeps its index and translation warm; the one that leads proposes too.

use std::time::Instant;

use operator_index::Dirty;
use operator_objects::spec::Event;
use operator_source::Batch;

use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::source::Source;

impl Pipeline {
    /// Takes what the source holds, without proposing anything.
    pub(super) async fn warm(&mut self, source: &mut Source) {
        let batch = source.initial().await;
        self.publish_problems(&batch);
        for event in batch.events {
            self.index.apply(event);
        }
        if source.is_asked_by_name() {
            // Which ones is known only now; without them, what they serve would be taken away.
            self.tell_time();
            self.translation
                .update(&self.index, Dirty::all(&self.index));
            let batch = source.want_named(&self.translation, true).await;
            self.follow(batch);
        }
    }

    /// Takes changes without proposing anything.
    pub(super) fn follow(&mut self, batch: Batch) {
        self.publish_problems(&batch);
        self.note(batch.events);
        self.publish_counts();
    }

    fn note(&mut self, events: Vec<Event>) {
        let mut dirty = Dirty::default();
        for event in events {
            dirty.merge(self.index.apply(event));
        }
        self.gateways_changed |= !dirty.gateways.is_empty();
        // What it would change is found anew against what is committed, once this replica leads.
        self.translation.update(&self.index, dirty);
    }

    /// Begins to lead: goes on from what is committed, whoever committed it, and proposes what differs. Nothing, when nothing
    /// has changed.
    pub(super) async fn begin_leading(&mut self) -> anyhow::Result<()> {
        tracing::info!("this replica leads");
        self.leads = true;
        self.astray = false;
        self.progress = Progress::default();
        self.take_over()?;
        self.reconcile(Instant::now()).await;
        self.lead_services(true);
        if !self.astray {
            self.services_are_complete();
        }
        Ok(())
    }

    /// Another replica leads, or none does: what was under way here is the next leader's to find out.
    pub(super) fn stop_leading(&mut self) {
        tracing::info!("this replica follows");
        self.leads = false;
        self.distributor.lead(false);
        self.lead_services(false);
        self.put_off.clear();
        self.moving.clear();
        self.unavailable.clear();
        self.refused.clear();
        self.blocked = None;
        self.kept = crate::kept::Kept::default();
        // Not ours to write any more.
        self.statuses.write().take_unsaved();
    }
}
