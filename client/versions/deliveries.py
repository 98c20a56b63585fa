"""The end of a job, and its last adapter, as they come to a site: checked by the coordinator's signature, then stored.

    adapters/<run>-<digest>/
        adapter_config.json, adapter_model.safetensors    what `PeftModel.from_pretrained` reads
        version.safetensors                               the complete adapter, all factors, whose digest is signed
        statement, coordinator.cert                       who says so
        evaluation.json                                   the site's own, written afterwards (`own_evaluation.py`)

A run has one end: the first that came stays, even where its adapter's folder was moved away. An adapter takes an update
of this site that left, by its ledger: a coordinator could otherwise fill the disk with offers and deliveries. A folder
is written under another name, synced and renamed, so that it is there whole or not at all, and the receipt leaves after
that. An end without an adapter, for who has no part in it, closes the run in the book, whether it was accepted or still
waits there, and frees what the ledger holds for it. Either may come early, after fewer rounds than the job has. The job
is known from the book, so that a site which was started anew meanwhile takes its end all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from yoriai import wire
from yoriai.base_digest import difference
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import OVER
from yoriai.client.offer.policy import job_from
from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site_identity import SiteIdentity
from yoriai.client.versions.adapter_place import CERTIFICATE, STATEMENT, VERSION, check_room, folder_of, folders_of
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import AdapterError, IdentityError, PolicyError
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.statements.delivery import DeliveryStatement, read_delivery
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import folder_made_whole


@dataclass(frozen=True)
class StoredAdapter:
    """A last adapter in its folder, and the job that it is of."""

    run_id: str
    job: JobConfig
    folder: Path
    adapter_digest: str


class Deliveries:
    """Takes last adapters for one site.

    Args:
        config: name and policy.
        session: by whose base an adapter is judged; whoever calls `receive` holds its lock.
        ledger: of the site, which gets back the rounds that the job did not need.
        identity: whose CA vouches for the coordinator.
        book: the jobs that the site has taken part in.
        folder: for the adapters.
        on_stored: called when an adapter is here, the first time and whenever it is delivered again.
    """

    def __init__(
        self,
        config: SiteConfig,
        *,
        session: ModelSession,
        ledger: Ledger,
        identity: SiteIdentity,
        book: JobBook,
        folder: Path,
        on_stored: Callable[[StoredAdapter], None],
    ) -> None:
        self._name, self._policy = config.name, config.policy
        self._session, self._ledger, self._identity = session, ledger, identity
        self._book, self._folder, self._on_stored = book, folder, on_stored

    def receive(self, message: wire.Delivery) -> wire.Receipt:
        """Check an end, and store its adapter if it has one. What is here already is confirmed, and nothing is written.

        Raises:
            IdentityError: certificate or statement is not what the federation stands behind.
            PolicyError: the statement is about another run, job, base or roster than this site accepted, or about more
                rounds than the job has; the run has come to another end already, no update of this site is in the
                adapter, or the disk has no room.
            AdapterError: the payload is not the adapter of the statement, or does not fit the job's model.
            StorageError: it cannot be written.
        """
        statement = self._verified(message)
        job = self._job_of(statement)
        place = folder_of(self._folder, statement.run_id, statement.adapter_digest)
        self._refuse_second(statement, place)
        if statement.adapter_digest:
            self._take(message, statement, job, place)
        else:
            self._close(statement)
        return wire.Receipt(run_id=message.run_id, site=self._name, adapter_digest=statement.adapter_digest)

    def _take(self, message: wire.Delivery, statement: DeliveryStatement, job: JobConfig, place: Path) -> None:
        """Store the adapter of a run that this site took part in."""
        self._check_fits(statement)
        if not place.is_dir():
            check_room(self._name, self._folder, len(message.payload))
            self._store(message, statement, job, place)
        self._close(statement)
        self._on_stored(StoredAdapter(statement.run_id, job, place, statement.adapter_digest))

    def _close(self, statement: DeliveryStatement) -> None:
        """The run is over here. Whatever a kill leaves undone, the same message does the next time."""
        self._book.finish(statement.run_id, statement.adapter_digest, statement.rounds)
        self._ledger.finish(statement.run_id)

    def _verified(self, message: wire.Delivery) -> DeliveryStatement:
        """The statement, once the coordinator's key and the CA behind it are seen to be right."""
        trust = self._identity.trust()
        certificate = read_coordinator_certificate(message.certificate.encode(), trust, now=trust.now)
        statement = read_delivery(message.statement.encode(), certificate.public_key)
        if not statement.federation == certificate.federation == trust.federation:
            raise IdentityError("the delivered adapter is another federation's", expected=trust.federation)
        if statement.run_id != message.run_id:
            raise PolicyError(f"site {self._name}: the coordinator's statement is about another run")
        return statement

    def _job_of(self, statement: DeliveryStatement) -> JobConfig:
        """The job that has ended; it must be one that this site takes part in, and that has come to no other end.

        An end without an adapter also closes a run that still waits here, or was approved and never offered again: a
        yes to it would come too late.
        """
        run, entry = f"run {statement.run_id[:80]}", self._book.entry(statement.run_id)
        may_end = ("accepted", *OVER) if statement.adapter_digest else ("accepted", "approved", "waiting", *OVER)
        if entry is None or entry.state not in may_end:
            raise PolicyError(f"site {self._name} has not taken part in {run}", found=entry.state if entry else "")
        if entry.state in OVER and entry.adapter_digest != statement.adapter_digest:
            raise self._second(statement)
        job, terms = job_from(self._name, self._policy, entry.terms.job), entry.terms
        known = (terms.job_digest, terms.base_digest, terms.roster_digest)
        said = (statement.job_digest, statement.base_digest, statement.roster_digest)
        if said != known or statement.rounds > job.federation.rounds:
            raise PolicyError(f"site {self._name}: the statement about {run} is of another job, base, length or roster")
        return job

    def _check_fits(self, statement: DeliveryStatement) -> None:
        """An update of this site must be in the run of an adapter, and the adapter's base must be here."""
        run = f"run {statement.run_id[:80]}"
        if not self._ledger.has_released(statement.run_id):
            raise PolicyError(
                f"site {self._name}: no update of this site is in {run}", remedy="deliver to those that took part"
            )
        if difference(self._session.base.digest, statement.base_digest):
            raise PolicyError(f"site {self._name} has another base model by now", remedy=f"load that of {run} again")

    def _refuse_second(self, statement: DeliveryStatement, place: Path) -> None:
        """The folder is the record of an adapter: a kill may have come before the book knew of it."""
        if any(other != place for other in folders_of(self._folder, statement.run_id)):
            raise self._second(statement)

    def _second(self, statement: DeliveryStatement) -> PolicyError:
        digest = statement.adapter_digest
        return PolicyError(
            f"site {self._name}: run {statement.run_id[:80]} has come to another end already",
            found=f"digest {digest[:16]}…" if digest else "an end without an adapter",
            remedy="the first one is kept; a new run brings a new one",
        )

    def _store(self, message: wire.Delivery, statement: DeliveryStatement, job: JobConfig, place: Path) -> None:
        state = AdapterState.from_bytes(message.payload)
        if state.digest() != statement.adapter_digest:
            raise AdapterError("the delivered adapter is not the one of the coordinator's statement")
        self._session.model(job).check(state)
        with folder_made_whole(place, alone=True) as part:
            save_adapter(self._session, job, state, part)
            (part / VERSION).write_bytes(state.to_bytes())
            (part / STATEMENT).write_bytes(message.statement.encode())
            (part / CERTIFICATE).write_bytes(message.certificate.encode())
