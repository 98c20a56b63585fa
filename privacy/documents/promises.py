"""What an officer asks of a privacy guarantee, what Yoriai answers for an adapter, and the tests that hold the answer.

The topics are chosen after NIST SP 800-226 (Guidelines for Evaluating Differential Privacy Guarantees, March 2025, doi
10.6028/NIST.SP.800-226), in words of our own. Its pyramid has the direct measures on top, epsilon among them, in the
middle what can undermine them, such as too little security, and at the bottom what lies under it all, such as how the
data was collected; each level rests on those below it. It is a guideline and no list of questions, and nobody at NIST
has looked at these answers.
"""

from dataclasses import dataclass
from typing import Final

from yoriai.privacy.documents.adapter_facts import AdapterFacts

SOURCE: Final = "NIST SP 800-226, March 2025, doi:10.6028/NIST.SP.800-226"


@dataclass(frozen=True)
class Promise:
    """A question of an officer's.

    Attributes:
        topic: the guideline's, in a few words.
        question: in plain words.
        answer: for one adapter.
        tests: names of tests that fail when the answer stops being true; empty where a person has to answer.
    """

    topic: str
    question: str
    answer: str
    tests: tuple[str, ...] = ()


def promises(facts: AdapterFacts) -> tuple[Promise, ...]:
    """All questions, answered for an adapter; without noise, those about noise are answered so."""
    return (_strength(facts), _composition(facts), _sensitivity(facts), _noise(facts), _trust(facts), *_SAME)


def _strength(facts: AdapterFacts) -> Promise:
    tests = (
        "test_no_accountant_is_below_the_true_cost_however_small_delta_and_however_many_the_steps",
        "test_pld_agrees_within_two_percent_with_golden_values_of_the_second_implementation",
    )
    question = "How strong is it, and of what?"
    if facts.epsilon is None:
        return Promise("Privacy parameters, unit", question, facts.price)
    answer = (
        "The epsilon above, of the unit above: an upper bound. Two accountants by different people agree, and of two "
        "bounds the smaller counts."
    )
    return Promise("Privacy parameters, unit", question, answer, tests)


def _composition(facts: AdapterFacts) -> Promise:
    question = "What adds up?"
    if facts.epsilon is None:
        return Promise("Composition", question, "Nothing is counted, for nothing is guaranteed.")
    spare = facts.job.privacy.spare_rounds
    answer = (
        f"All {facts.job.federation.rounds} rounds of the job and {spare} spare ones are in epsilon. Each site's own "
        "ledger is charged before anything is computed, and adds up its jobs to its budget."
    )
    tests = (
        "test_the_charge_is_on_disk_before_training_begins",
        "test_one_statement_covers_every_path_whatever_the_adversary_does_after_the_first_plan",
    )
    return Promise("Composition", question, answer, tests)


def _sensitivity(facts: AdapterFacts) -> Promise:
    unit = facts.job.privacy.unit
    if facts.epsilon is None:
        return Promise(
            "Sensitivity", f"How far can one {unit} move what leaves?", "It is clipped, and nothing hides it."
        )
    answer = f"By the clip norm at most, {facts.job.privacy.clip_norm:g}, in floating point too."
    tests = (
        "test_neighbours_move_the_clipped_sum_by_at_most_the_clip_norm",
        "test_rows_are_clipped_whose_squares_float32_cannot_hold",
    )
    return Promise("Sensitivity", f"How far can one {unit} move what leaves?", answer, tests)


def _noise(facts: AdapterFacts) -> Promise:
    question = "Is the noise there that is claimed?"
    if facts.epsilon is None:
        return Promise("Mechanism, implementation", question, "None is claimed, and none is there.")
    shared = facts.job.privacy.noise == "distributed"
    kind = "Skellam noise, shared by the sites" if shared else "Gaussian noise at each site"
    answer = f"{kind}, of a cryptographic source; what is released lies on a public grid."
    return Promise("Mechanism, implementation", question, answer, _SHARED if shared else _LOCAL)


def _trust(facts: AdapterFacts) -> Promise:
    masked = (
        "test_single_updates_cannot_be_told_from_random_by_all_that_the_server_sees",
        "test_in_the_complete_graph_a_third_of_colluders_stays_below_the_threshold",
    )
    tests = masked if facts.job.secure_aggregation.enabled else ()
    answer = (
        "More sites than said above. A consortium that admits sites that do not exist adds colluders; a site that was "
        "given a false CA is not protected."
    )
    return Promise("Trust model", "Who must not work together?", answer, tests)


_SHARED: Final = (
    "test_the_sum_of_the_sites_carries_the_noise_of_the_shares",
    "test_no_hostile_job_has_less_shared_noise_or_sensitivity_than_its_event_says",
)
_LOCAL: Final = (
    "test_a_release_lies_on_a_public_grid_and_uses_all_of_it_whatever_the_sum",
    "test_no_hostile_job_has_less_noise_or_sensitivity_than_its_event_says",
)
_SAME: Final = (
    Promise(
        "Side channels",
        "What else tells of records?",
        "No answer does before it is paid for. When, how long and how often a site answers is seen, and not covered.",
        ("test_no_answer_tells_which_of_two_neighbouring_data_sets_a_site_has",),
    ),
    Promise(
        "Security, access",
        "Who reaches the records?",
        "The site's own daemon alone; Flower's processes run as another user. Root at the site reaches everything.",
        ("test_nothing_private_can_be_read_by_the_nodes_user",),
    ),
    Promise(
        "Utility, bias",
        "Is it good for everybody?",
        "Clipping and noise cost most where records are few. Each site measures on its own records; epsilon does not "
        "cover what is measured.",
    ),
    Promise(
        "Data collection",
        "May the records be used?",
        "Not Yoriai's to answer: law, consent, retention and quality of the records are each site's.",
    ),
)
