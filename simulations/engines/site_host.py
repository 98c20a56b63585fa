"""What plays sites in a process of its own: in Flower's worker on this machine, or at a node of a Ray cluster."""

from typing import TYPE_CHECKING

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.privacy.secagg.work import SharedWork
from yoriai.simulations.engines.site_spec import SiteSpec

if TYPE_CHECKING:
    from yoriai.client.node.client_app import Door


class SiteHost:
    """Sites of this process around one base, each built where the first message for it arrives, with its open ledger.

    They share work as far as they meet here; what one of them keeps for a site elsewhere is bounded (`SharedWork`).

    Args:
        base_digest: of the base model that their job names.
        synced: whether each row of a ledger is durable by itself. On another machine it has to be: what syncs the
            ledgers of all sites once a round does so on the machine that coordinates.
    """

    def __init__(self, base_digest: str, *, synced: bool = False) -> None:
        self._base_digest, self._synced = base_digest, synced
        self._session: ModelSession | None = None
        self._work = SharedWork()
        self._built: dict[str, Door] = {}

    def load(self, job: JobConfig) -> ModelSession:
        """The base and what is built on it; loaded at the first call.

        Raises:
            BaseModelError, AssetError: as `load_base`.
        """
        if self._session is None:
            device = choose_device(job.speed.device)
            base = load_base(job.base.model, device=device, expected_digest=self._base_digest)
            self._session = ModelSession(base, job.speed)
        return self._session

    def site(self, spec: SiteSpec) -> "Door":
        """The site of this name; the specification of one that is built already is not looked at."""
        name = spec.records.name
        if name not in self._built:
            ledger = spec.open_ledger(synced=self._synced)
            self._built[name] = spec.build(self.load(spec.job), ledger, work=self._work)
        return self._built[name]
