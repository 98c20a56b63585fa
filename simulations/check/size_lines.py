"""Lengths, time and memory in lines for the terminal."""

from collections.abc import Mapping
from itertools import chain

from rich.text import Text

from yoriai.simulations.check.estimate import Estimate
from yoriai.simulations.check.lengths import POOR_TOKENS_PER_BYTE, SiteLengths, distribution, poorly_read
from yoriai.simulations.report.html import size_text, time_text


def length_lines(sites: Mapping[str, SiteLengths], limit: int) -> list[Text]:
    """Of all records together, and a note on the sites that the base's tokenizer does poorly with."""
    all_of = distribution(list(chain.from_iterable(site.every for site in sites.values())), limit)
    text_bytes = sum(site.text_bytes for site in sites.values())
    per_byte = sum(site.text_tokens for site in sites.values()) / max(1, text_bytes)
    lines = [
        Text(
            f"lengths  median {all_of.median} tokens, 90 % have up to {all_of.ninetieth}, longest {all_of.longest} "
            f"(template included); {all_of.cut} of {all_of.records} ({all_of.cut / all_of.records:.1%}) are longer "
            f"than {limit} and cut"
        ),
        Text(f"tokens   {per_byte:.2f} for each byte of text"),
    ]
    if poor := poorly_read(sites):
        listed = ", ".join(f"{name} {sites[name].tokens_per_byte:.2f}" for name in poor)
        lines.append(
            Text(
                f"note     the base's tokenizer is poor on the texts of {listed}: more than {POOR_TOKENS_PER_BYTE:g} "
                "tokens a byte, so a token stands for less than two bytes. A character of Japanese, Chinese or Thai "
                "has three: most tokens are then pieces of characters. Records get two to three times as long as with "
                "a base made for the language, take as much more time, are cut sooner and teach less: choose such a "
                "base",
                style="bold yellow",
            )
        )
    return lines


def estimate_lines(found: Estimate) -> list[Text]:
    """Time and memory, what they rest on, and how wide they are."""
    day = found.step.measured_on
    measured = "measured" if day is None else f"as measured on {day} (--anew measures again)"
    on_device = f", {size_text(found.step.device_bytes)} on the GPU" if found.step.device_bytes else ""
    counted = size_text(found.states_bytes + found.logits_bytes)
    return [
        Text(
            f"time     about {time_text(found.seconds)} where this machine plays all sites (between half and twice "
            f"that): {measured} in one real step of {found.step.records} records, which was thrown away; without "
            "start-up, masks, ledgers and --compare"
        ),
        Text(
            f"memory   about {size_text(found.peak_bytes)} at the peak{on_device} (a third more or less): measured in "
            f"the same step, with {counted} by count for hidden states and the largest batch of test records"
        ),
    ]
