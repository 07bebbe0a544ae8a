//! Keeps a key of another team from being read for the mirror: at the start, and whenever the key changes.
//!
//! Requests for the mirror leave only with a secret that the guard has admitted (see [`Client::admit`]). It admits
//! one while this process leads, after a look at the database: so no row that another team's key brought can be
//! written, and none that is under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::client::Client;
use crate::store::{Lease, Store, StoreError};
use crate::sync::scheduler::SyncError;
use crate::telemetry;

use super::AppError;
use super::team::{Inquiry, OtherTeam, Team, Verdict};

/// How often it is looked whether the secret changed.
const SECRET_LOOK: Duration = Duration::from_secs(1);
/// When the database is asked again that could not be used.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the database has been bound otherwise, while the key is refused.
const REFUSED_LOOK: Duration = Duration::from_secs(10);
/// When the API is asked again that refuted the key: at first, and at most after doubling.
const REFUSED_FIRST: Duration = Duration::from_secs(60);
/// When it is asked again that did not say.
const UNPROVED: Duration = Duration::from_secs(3_600);
/// When it is asked again that confirmed the key.
const CONFIRMED: Duration = Duration::from_secs(86_400);

/// What the guard has to say.
#[derive(Clone, Debug, Default)]
pub(super) enum Standing {
    /// Nothing is known yet.
    #[default]
    Unchecked,
    /// Nothing speaks against the key.
    Open,
    /// The answers contradict each other, so nothing is read.
    Undecided(Arc<str>),
    Refused {
        other: Arc<OtherTeam>,
        /// No key was found right since the process began.
        from_start: bool,
    },
    /// The API or the database cannot be asked, and the guard's owner does not wait.
    Failed(Arc<SyncError>),
}

impl Standing {
    /// Why nothing is read.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Unchecked | Self::Open => None,
            Self::Undecided(reason) => Some(reason.to_string()),
            Self::Refused { other, .. } => Some(other.to_string()),
            Self::Failed(error) => Some(telemetry::chain(error.as_ref())),
        }
    }

    fn ends_a_term(&self, patient: bool) -> bool {
        match self {
            Self::Unchecked | Self::Open => false,
            Self::Undecided(_) => !patient,
            Self::Refused { .. } | Self::Failed(_) => true,
        }
    }
}

/// The guard's task; ends with this value.
pub(super) struct Guard {
    client: Client,
    patient: bool,
    lead: watch::Sender<Option<Lease>>,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// From now on no request for the mirror leaves until its secret is found right. A guard that is not `patient`
    /// fails when the API does.
    pub fn spawn(client: &Client, store: &Store, patient: bool, cancel: &CancellationToken) -> Self {
        client.admit(None);
        let (lead, led) = watch::channel(None);
        let (told, standing) = watch::channel(Standing::Open);
        let task = Task {
            client: if patient { client.patient() } else { client.clone() },
            store: store.clone(),
            patient,
            cancel: cancel.clone(),
            standing: told,
            inquiry: None,
            ask_at: Instant::now(),
            refused_pause: REFUSED_FIRST,
            right: None,
            told: None,
            failing: false,
        };
        let task = tokio::spawn(task.run(led));
        Self { client: client.clone(), patient, lead, standing, task }
    }

    /// What the guard says, now and from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The refusal that stands.
    pub fn refusal(&self) -> Option<(Arc<OtherTeam>, bool)> {
        match &*self.standing.borrow() {
            Standing::Refused { other, from_start } => Some((Arc::clone(other), *from_start)),
            _ => None,
        }
    }

    /// Returns when no refusal stands.
    pub async fn accepts(&self) {
        // The task holds the sender as long as this lives.
        let _ = self.standing().wait_for(|standing| !matches!(standing, Standing::Refused { .. })).await;
    }

    /// Returns once a refusal stands.
    pub async fn refuses(&self) {
        let _ = self.standing().wait_for(|standing| matches!(standing, Standing::Refused { .. })).await;
    }

    /// Has the key looked at while another process leads, or none. It is at once where this process leads.
    pub fn stands_by(&self) {
        self.leads(None);
    }

    /// Returns when the key has been looked at, for a process that does not lead.
    ///
    /// # Errors
    /// What speaks against it.
    pub async fn checked(&self, cancel: &CancellationToken) -> Result<(), AppError> {
        self.stands_by();
        let mut standing = self.standing();
        tokio::select! {
            _ = standing.wait_for(|standing| !matches!(standing, Standing::Unchecked)) => self.objection(),
            () = cancel.cancelled() => Err(SyncError::Stopped.into()),
        }
    }

    /// Runs a term under `lease`, and ends it by `cancel` when the key turns out wrong.
    ///
    /// # Errors
    /// What the guard has against the key, and what ended the term.
    pub async fn during(
        &self,
        lease: &Lease,
        cancel: &CancellationToken,
        term: impl Future<Output = Result<(), SyncError>>,
    ) -> Result<(), AppError> {
        self.leads(Some(lease.clone()));
        let outcome = {
            let mut standing = self.standing();
            let ends = async {
                let _ = standing.wait_for(|standing| standing.ends_a_term(self.patient)).await;
            };
            tokio::pin!(term);
            tokio::select! {
                outcome = &mut term => outcome,
                () = ends => {
                    cancel.cancel();
                    term.await
                }
            }
        };
        self.leads(None);
        self.objection()?;
        Ok(outcome?)
    }

    fn objection(&self) -> Result<(), AppError> {
        match self.standing.borrow().clone() {
            Standing::Refused { other, .. } => Err(AppError::OtherTeam(other)),
            Standing::Failed(error) => Err(AppError::TeamUnchecked(error)),
            Standing::Undecided(reason) if !self.patient => Err(AppError::TeamUndecided(reason)),
            _ => Ok(()),
        }
    }

    fn leads(&self, lease: Option<Lease>) {
        // Closed first: what the former lead knew of the database counts for nothing.
        self.client.admit(None);
        self.lead.send_replace(lease);
    }
}

struct Task {
    client: Client,
    store: Store,
    patient: bool,
    cancel: CancellationToken,
    standing: watch::Sender<Standing>,
    /// What the API said to the present secret.
    inquiry: Option<Inquiry>,
    /// When to ask it again.
    ask_at: Instant,
    refused_pause: Duration,
    /// The secret that was found right last.
    right: Option<u64>,
    /// The last verdict that was logged, and of which secret.
    told: Option<(u64, Verdict)>,
    /// That the database cannot be asked was logged.
    failing: bool,
}

impl Task {
    async fn run(mut self, mut lead: watch::Receiver<Option<Lease>>) {
        // Until its part is known, a process asks the API nothing.
        tokio::select! {
            () = self.cancel.cancelled() => return,
            changed = lead.changed() => if changed.is_err() { return },
        }
        loop {
            let lease = lead.borrow_and_update().clone();
            let look_after = match self.look(lease.as_ref(), &lead).await {
                Ok(look_after) => {
                    self.failing = false;
                    look_after
                }
                Err(SyncError::Store(error)) if self.patient || passes(&error) => {
                    if !std::mem::replace(&mut self.failing, true) && !passes(&error) {
                        let error = telemetry::chain(&error);
                        warn!(error, "the database's team could not be looked up; retrying");
                    }
                    DATABASE_PAUSE
                }
                Err(SyncError::Stopped) => return,
                Err(error) => {
                    self.standing.send_replace(Standing::Failed(Arc::new(error)));
                    // Whoever asks for the standing finds it there as long as the guard lives.
                    self.cancel.cancelled().await;
                    return;
                }
            };
            let secret = self.inquiry.as_ref().map(Inquiry::secret);
            tokio::select! {
                () = self.cancel.cancelled() => return,
                changed = lead.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(look_after) => {}
                () = differs(&self.client, secret) => self.inquiry = None,
            }
            if self.ask_at <= Instant::now() {
                self.inquiry = None;
            }
        }
    }

    /// Asks what is not known, and acts on it. Returns when to look again.
    async fn look(
        &mut self,
        lease: Option<&Lease>,
        lead: &watch::Receiver<Option<Lease>>,
    ) -> Result<Duration, SyncError> {
        let bound = self.store.team().await?;
        let contacts = match bound {
            None => self.store.contacts_teams().await?,
            Some(_) => Vec::new(),
        };
        let is_new = self.inquiry.is_none();
        // Where it cannot be read, no answer comes either.
        let inquiry =
            self.inquiry.get_or_insert_with(|| Inquiry::of_secret(self.client.secret().unwrap_or_default()));
        let verdict = inquiry.decide(&self.client, bound.as_ref(), &contacts, &self.cancel).await?;
        let secret = inquiry.secret();
        if let Verdict::Confirmed(team) | Verdict::Bind(team) = &verdict
            && let Some(lease) = lease
        {
            let source = inquiry.source_of(team.id).map_or("", |source| source.name());
            let bound = self.store.bind_team(lease, team.id, team.name.as_deref(), source).await?;
            if bound.is_none_or(|bound| bound.id != team.id) {
                return Ok(Duration::ZERO);
            }
        }
        self.tell(secret, &verdict, lease.is_some());
        let is_right = match &verdict {
            Verdict::Confirmed(_) | Verdict::Bind(_) | Verdict::Unproved(_) => true,
            // The key was found right before: contradictory answers do not make it wrong.
            Verdict::Undecided(_) => self.right == Some(secret),
            Verdict::Refused(_) | Verdict::Ask => false,
        };
        if is_right {
            self.right = Some(secret);
        }
        let admitted = is_right && lease.is_some();
        self.client.admit(admitted.then_some(secret));
        // What was found out is of no use to a lead that has ended, or begun, meanwhile.
        if lead.has_changed().unwrap_or(true) {
            self.client.admit(None);
        }
        if !matches!(verdict, Verdict::Refused(_)) {
            self.refused_pause = REFUSED_FIRST;
        }
        let (standing, again, look_after) = match verdict {
            Verdict::Confirmed(_) | Verdict::Bind(_) => (Standing::Open, CONFIRMED, CONFIRMED),
            Verdict::Unproved(_) => (Standing::Open, UNPROVED, UNPROVED),
            Verdict::Undecided(reason) => {
                let standing = if is_right { Standing::Open } else { Standing::Undecided(reason.into()) };
                (standing, REFUSED_FIRST, REFUSED_FIRST)
            }
            Verdict::Refused(other) => {
                let from_start = self.right.is_none();
                let pause = self.refused_pause;
                if is_new {
                    self.refused_pause = (pause * 2).min(UNPROVED);
                }
                (Standing::Refused { other: Arc::new(other), from_start }, pause, REFUSED_LOOK)
            }
            Verdict::Ask => (Standing::Open, DATABASE_PAUSE, DATABASE_PAUSE),
        };
        if is_new {
            self.ask_at = Instant::now() + again;
        }
        self.standing.send_replace(standing);
        Ok(look_after)
    }

    /// Logs what changed.
    fn tell(&mut self, secret: u64, verdict: &Verdict, leads: bool) {
        // Binding is done by whoever leads.
        let done = !matches!(verdict, Verdict::Bind(_)) || leads;
        let now = (secret, verdict.clone());
        if !done || self.told.as_ref() == Some(&now) {
            return;
        }
        match verdict {
            Verdict::Confirmed(Team { id, name }) => {
                info!(team = id, name = name.as_deref(), "the API key belongs to the team of this database");
            }
            Verdict::Bind(Team { id, name }) => {
                info!(team = id, name = name.as_deref(), "this database is bound to the team of the API key");
            }
            Verdict::Unproved(reason) => warn!(
                reason,
                "the team of the API key is not known, so a key of another team would not be noticed; asking again \
                 in an hour"
            ),
            Verdict::Undecided(reason) => {
                warn!(reason, "the team of the API key could not be found out; asking again in a minute");
            }
            Verdict::Refused(other) => warn!(error = %other, "the API key is refused; nothing is read"),
            Verdict::Ask => {}
        }
        self.told = Some(now);
    }
}

/// Whether the same may succeed a moment later, or under the next lead.
fn passes(error: &StoreError) -> bool {
    error.is_transient() || matches!(error, StoreError::LeadLost | StoreError::ServerRestarted)
}

/// Returns when the present secret is another than `secret`.
async fn differs(client: &Client, secret: Option<u64>) {
    loop {
        tokio::time::sleep(SECRET_LOOK).await;
        if let Ok(now) = client.secret()
            && Some(now) != secret
        {
            return;
        }
    }
}
