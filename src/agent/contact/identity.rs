//! The certificates of an agent, and the HTTP client that presents them: read again when a file changes.

use std::path::Path;
use std::time::Duration;

use super::renewal;
use tfo_config::contact::{ContactSettings, Renewal};
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, Severity, chain};
use tfo_model::time::UnixTime;
use tfo_pki::renewal::Life;
use tfo_tls::client::{ClientIdentity, FileStamps, client_identity};
use tfo_wire::client::Client;
use tfo_wire::v1::sync::CERTIFICATE_ENDS;

/// How often a certificate's expiry is checked although no file has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// A client and the notes on its certificates.
pub(super) struct Identity {
    client: Client,
    stamps: FileStamps,
    looked_at: Duration,
    names: Vec<NodeId>,
    life: Life,
    notes: Vec<Problem>,
}

/// Reads the files; a problem names the key of the configuration.
///
/// # Errors
/// As [`client_identity`].
pub fn load(settings: &ContactSettings, config: &Path, now: UnixTime) -> Result<ClientIdentity, Vec<Problem>> {
    let locate = |problem: Problem| match problem.file {
        None => settings.place.locate(config, problem),
        Some(_) => problem,
    };
    match client_identity(&settings.files, now) {
        Ok(identity) => {
            let life = Life::of(identity.not_before, identity.not_after);
            let described = |note: Problem| match settings.renewal {
                Renewal::ByAgent => renewal::described(note, life, now),
                Renewal::ByHand => Some(note),
            };
            let notes = identity.notes.into_iter().filter_map(described).map(locate).collect();
            Ok(ClientIdentity { notes, ..identity })
        }
        Err(problems) => Err(problems.into_iter().map(locate).collect()),
    }
}

impl Identity {
    /// Reads the files and makes a client.
    ///
    /// # Errors
    /// Fails with everything that is wrong with them.
    pub(super) fn load(
        settings: &ContactSettings,
        config: &Path,
        now: UnixTime,
        monotonic: Duration,
    ) -> Result<Self, Vec<Problem>> {
        // Before they are read: the next look then sees a change in between.
        let stamps = settings.files.stamps();
        let ClientIdentity { config: tls, names, not_before, not_after, notes } = load(settings, config, now)?;
        let life = Life::of(not_before, not_after);
        let client = Client::new(tls).map_err(|error| {
            let message = chain(&error);
            vec![Problem::error("http_client", message, "this is a bug; please report it")]
        })?;
        Ok(Self { client, stamps, looked_at: monotonic, names, life, notes })
    }

    /// Whether it should be read again.
    pub(super) fn is_stale(&self, settings: &ContactSettings, monotonic: Duration) -> bool {
        monotonic.saturating_sub(self.looked_at) >= LOOK_AGAIN || self.stamps != settings.files.stamps()
    }

    /// Takes `new`, and keeps the open connection if the files are the same.
    pub(super) fn renew(&mut self, new: Self) {
        if self.stamps == new.stamps {
            (self.looked_at, self.notes) = (new.looked_at, new.notes);
        } else {
            *self = new;
        }
    }

    /// Keeps the old certificates for now: the new ones cannot be used.
    pub(super) fn keep(&mut self, problems: Vec<Problem>, monotonic: Duration) {
        self.looked_at = monotonic;
        self.notes = problems;
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The names of the certificate.
    pub(super) fn names(&self) -> &[NodeId] {
        &self.names
    }

    /// From when until when the certificate is good.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// The end of the certificate's validity.
    pub(super) fn not_after(&self) -> UnixTime {
        self.life.until()
    }

    /// Whether the fleet's operators have to look at the end of the certificate: the agent could not renew it, or what
    /// renews it has not yet.
    pub(super) fn ends_unrenewed(&self, by: Renewal, now: UnixTime) -> bool {
        match by {
            Renewal::ByAgent => self.notes.iter().any(|note| note.kind == CERTIFICATE_ENDS),
            Renewal::ByHand => now >= self.life.ends_from(),
        }
    }

    /// What is wrong with the certificates, as warnings: keys do not depend on it before a coordinator refuses them.
    pub(super) fn notes(&self) -> impl Iterator<Item = Problem> + '_ {
        self.notes.iter().cloned().map(|note| Problem { severity: Severity::Warning, ..note })
    }
}
