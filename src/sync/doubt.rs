//! What a line does about weak evidence, and about evidence against what it has proved.

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::endpoints::View;
use crate::api::limiter::Priority;
use crate::interval::{Interval, TICK};
use crate::store::STANDING;

use super::emptiness::confirms;
use super::line_task::LineTask;
use super::scheduler::SyncError;
use super::walk::Emptiness;
use super::walker::{Claim, Errand, Until};

impl LineTask {
    /// A walk has listed rows or not, and seen some down to this time.
    pub(super) fn saw(&mut self, listed: bool, lowest: Option<DateTime<Utc>>) {
        self.listed |= listed;
        let Some(lowest) = lowest else { return };
        self.claims.values_mut().for_each(|claims| claims.saw(lowest));
    }

    /// Empty answers claim that nothing is left of a pass that wants everything from `wanted_from` on. Believed where the
    /// API's count confirms it (asked for where `count`), or another such claim some time ago; else it stays open.
    pub(super) async fn claim(
        &mut self,
        pass: &str,
        wanted_from: Option<DateTime<Utc>>,
        emptiness: Emptiness,
        count: bool,
    ) -> Result<(), SyncError> {
        let apart = self.engine.settings.sync.empty_apart;
        let claims = self.claims.entry(pass.to_owned()).or_default();
        let agreed = claims.add(emptiness, Instant::now(), apart);
        let end = emptiness.interval.end();
        let believed = if pass != STANDING && self.is_held(emptiness.interval).await? {
            Some(end)
        } else if count || agreed.is_some() && !self.listed {
            match self.count().await? {
                Some(counted) if counted > 0 && !self.listed => {
                    let (stream, line) = (self.errand.line.stream, self.errand.line.name());
                    warn!(%stream, %line, counted, "the API lists no row, but counts some; the list is asked for again");
                    None
                }
                Some(counted) if self.is_confirmed(counted, emptiness.weak).await? => Some(end),
                _ => agreed,
            }
        } else {
            agreed
        };
        let Some(interval) = believed.and_then(|end| Interval::new(wanted_from, end)) else { return Ok(()) };
        if believed == Some(end)
            && agreed != believed
            && let Some(claims) = self.claims.get_mut(pass)
        {
            claims.settle();
        }
        // What rows prove of the interval is to be in the ledger before: the rest alone is marked.
        self.engine.reader.writer.flush().await?;
        let key = self.errand.line.key(pass);
        Ok(self.engine.store.believe(&self.engine.lease, &key, interval).await?)
    }

    /// Whether the standing pass holds all of the interval.
    async fn is_held(&self, interval: Interval) -> Result<bool, SyncError> {
        Ok(self.engine.store.gaps(&self.errand.line.key(STANDING), interval).await?.is_empty())
    }

    /// The API's count of the stream's rows, where the line lists all of them and the API tells.
    async fn count(&self) -> Result<Option<u64>, SyncError> {
        let (reader, line) = (&self.engine.reader, &self.errand.line);
        let found = reader.readings.of(line.stream);
        if line.view != View::Default || line.inbox.is_some() || found.views_are_hidden {
            return Ok(None);
        }
        Ok(reader.probe(&found.ids).total(line).await?)
    }

    async fn is_confirmed(&self, counted: u64, weak: bool) -> Result<bool, SyncError> {
        let line = &self.errand.line;
        self.engine.reader.writer.flush().await?;
        let held = self.engine.store.held_rows(line.stream).await?;
        let confirmed = confirms(counted, held, weak);
        if !confirmed && counted != held {
            info!(stream = %line.stream, line = %line.name(), counted, held, "the API counts other rows than are held");
        }
        Ok(confirmed)
    }

    /// Asks again where the line was believed to end: a row that turns up there withdraws all below the edge, and what
    /// cannot be listed there is open.
    pub(super) async fn ask_edge(&mut self) -> Result<(), SyncError> {
        let key = self.errand.line.key(STANDING);
        let Some(state) = self.engine.store.pass(&key).await? else { return Ok(()) };
        let errand = Errand { priority: Priority::Recheck, ..self.errand.clone() };
        for believed in state.believed {
            let walked = self.engine.reader.walk(&errand, &Claim::new(believed), None, Until::Below).await?;
            self.saw(walked.listed, walked.lowest);
            if walked.lowest.is_some_and(|lowest| lowest < believed.end() - TICK) {
                self.engine.reader.writer.flush().await?;
                let reason = "a row turned up where the line was believed to end";
                self.engine.store.withdraw(&self.engine.lease, &key, believed, reason).await?;
            }
            // What no walk can list is not known to be empty.
            let lasting = walked.obstacles.iter().filter(|(_, obstacle)| !obstacle.may_pass());
            for hole in lasting.filter_map(|(hole, _)| hole.intersection(&believed)) {
                let reason = "what was believed to be empty cannot be listed";
                self.engine.store.withdraw(&self.engine.lease, &key, hole, reason).await?;
            }
        }
        Ok(())
    }

    /// Withdraws what contradictions call for, and resolves those whose place was read again since. Returns whether
    /// anything was withdrawn.
    pub(super) async fn heal(&mut self) -> Result<bool, SyncError> {
        let key = self.errand.line.key(STANDING);
        self.engine.reader.writer.flush().await?;
        self.engine.store.settle_contradictions(&key).await?;
        Ok(!self.engine.store.heal(&self.engine.lease, &key).await?.is_empty())
    }
}
