"""What site and server show of the consortium's files, and ask before they pin its CA."""

from yoriai.asking import agree
from yoriai.privacy.identity.enrolment import grouped
from yoriai.privacy.identity.trust_folder import Accepted, TrustFolder
from yoriai.terminal import count_of_sites, say, say_rows


def install_agreed(trusted: TrustFolder, accepted: Accepted, *, yes: bool) -> None:
    """Install the consortium's files, the first time only once the CA's fingerprint was compared.

    Raises:
        typer.Exit: it was not.
        IdentityError: the roster is older than one that was seen.
        StorageError: a file cannot be written.
    """
    if accepted.first:
        say(f"fingerprint of the CA, which this {trusted.party} will trust from now on:")
        say_rows(grouped(accepted.authority_fingerprint))
        agree("Has the consortium read out this fingerprint to you?", yes=yes, otherwise="nothing was installed")
    trusted.install(accepted)


def show_installed(role: str, accepted: Accepted) -> None:
    """What the installed files say of their holder and the roster; the role is "a member" or "the coordinator"."""
    own, roster = accepted.own, accepted.roster
    say(f"{own.name} is {role} of {roster.federation}; its certificate holds until {own.expires:%Y-%m-%d}")
    say(f"roster {roster.serial} names {count_of_sites(len(roster.sites))} and holds until {roster.expires:%Y-%m-%d}")
