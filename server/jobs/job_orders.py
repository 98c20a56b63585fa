"""What an operator orders about a job that is in the queue, at work or at rest: resume, end, cancel.

Each is for the command line and the console alike, changes the state under the job's lock, and is a ConfigError where
the job's phase has it so.
"""

from pathlib import Path

from yoriai.errors import ConfigError
from yoriai.server.jobs.job_store import Phase, StoredJob


def resume(stored: StoredJob, server: Path) -> str:
    """Have a job that failed or was cancelled go on from its last stored round; one that ended delivers the rest.

    Args:
        server: folder of the server, for the message.

    Returns:
        What happens now, in words.

    Raises:
        ConfigError: it is queued or at work.
    """
    before = stored.state().phase
    ended: tuple[Phase, ...] = ("failed", "cancelled", "finished", "ended")
    stored.change(only_from=ended, phase="queued", fruitless=0, not_before=0.0, error="")
    if before not in ended:
        raise ConfigError(
            f"job {stored.run_id} is {before}",
            expected="failed, cancelled, finished or ended",
            remedy=f"the server begins a job again by itself; look at: yoriai job status --server {server}",
        )
    return f"{stored.run_id} goes on when its turn comes"


def end(stored: StoredJob) -> str:
    """End a job early, for good, after the round at work.

    Returns:
        What happens now, in words.

    Raises:
        ConfigError: it is being cancelled, or is over.
    """
    stored.change(only_from=("starting", "running"), ending=True)
    at_rest: tuple[Phase, ...] = ("queued", "failed", "cancelled")
    stored.change(only_from=at_rest, phase="queued", ending=True, fruitless=0, not_before=0.0, error="")
    after = stored.state()
    if not after.ending:
        cancelled = after.phase == "cancelling"
        remedy = "wait until it is, and end it then" if cancelled else "what is missing, `yoriai job resume` delivers"
        raise ConfigError(f"job {stored.run_id} is {after.phase}", remedy=remedy)
    return f"{stored.run_id} ends {'after the round at work' if after.phase == 'running' else 'when its turn comes'}"


def cancel(stored: StoredJob) -> str:
    """Stop a job at once; its stored rounds stay.

    Returns:
        What happens now, in words.

    Raises:
        ConfigError: it is over already.
    """
    stored.change(only_from=("queued", "starting", "running"), phase="cancelling", ending=False)
    after = stored.state().phase
    if after not in ("cancelling", "cancelled"):
        raise ConfigError(f"job {stored.run_id} is {after} already")
    if after == "cancelling" and stored.coordinator() is None:
        after = stored.change(only_from=("cancelling",), phase="cancelled").phase
    return f"{stored.run_id} is {'cancelled' if after == 'cancelled' else 'being cancelled'}"
