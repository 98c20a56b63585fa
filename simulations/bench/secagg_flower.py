"""Flower 1.41's own SecAgg+ functions, called as they are, in the order in which its client and its workflow do.

No network, no Flower processes. The coordinator's path takes minutes at full size; a stated number of each of its three
repeated operations is timed, and the rest is reckoned from that.
"""

import os
import time
from typing import Any

import numpy as np
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes
from numpy.typing import NDArray

CLIPPING_RANGE, MODULUS = 8.0, 2**32


def flower_site(values: NDArray[np.float32], neighbours: int, bits: int) -> tuple[float, list[bytes]]:
    """Seconds and upload of one client: weigh, quantise, one private and `neighbours` pairwise masks, serialise."""
    private_key, _ = generate_key_pairs()
    others = [generate_key_pairs()[1] for _ in range(neighbours)]
    private_seed = os.urandom(32)
    start = time.perf_counter()
    parameters = quantize(parameters_multiply([values], 1.0), CLIPPING_RANGE, 2**bits)
    parameters = factor_combine(2**bits, parameters)
    shapes = get_parameters_shape(parameters)
    parameters = parameters_addition(parameters, pseudo_rand_gen(private_seed, MODULUS, shapes))
    for i, other in enumerate(others):
        mask = pseudo_rand_gen(generate_shared_key(private_key, other), MODULUS, shapes)
        parameters = (parameters_addition if i % 2 else parameters_subtraction)(parameters, mask)
    sent = [ndarray_to_bytes(array) for array in parameters_mod(parameters, MODULUS)]
    return time.perf_counter() - start, sent


def flower_coordinator(sent: list[bytes], sites: int, dropped: int, sample: int) -> dict[str, Any]:
    """Seconds of the workflow for `sites` sites, `dropped` of them gone, complete graph.

    Timed: `sample` receptions (deserialise and add), `sample` private masks (rebuild the seed, generate, subtract),
    `sample` pairwise masks (agree, generate, add), and the closing once; each repeated operation counts as often as the
    workflow does it. Rebuilding the dropped sites' keys is timed for one of them.
    """
    survivors = sites - dropped
    threshold = max(2, round(0.5 * sites))
    total = [bytes_to_ndarray(data) for data in sent]
    shapes = get_parameters_shape(total)

    start = time.perf_counter()
    for _ in range(sample):
        total = parameters_addition(total, [bytes_to_ndarray(data) for data in sent])
    receive = (time.perf_counter() - start) / sample

    shares = create_shares(os.urandom(32), threshold, sites)
    start = time.perf_counter()
    for _ in range(sample):
        seed = combine_shares(shares[:threshold])
        total = parameters_subtraction(total, pseudo_rand_gen(seed, MODULUS, shapes))
    private = (time.perf_counter() - start) / sample

    private_key, public_key = generate_key_pairs()
    key_shares = create_shares(private_key_to_bytes(private_key), threshold, sites)
    start = time.perf_counter()
    combine_shares(key_shares[:threshold])
    rebuild = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(sample):
        mask = pseudo_rand_gen(generate_shared_key(private_key, public_key), MODULUS, shapes)
        total = parameters_addition(total, mask)
    pairwise = (time.perf_counter() - start) / sample

    start = time.perf_counter()
    _, rest = factor_extract(parameters_mod(total, MODULUS))
    dequantize(rest, CLIPPING_RANGE, 2**22)
    closing = time.perf_counter() - start
    seconds = survivors * (receive + private) + dropped * (rebuild + survivors * pairwise) + closing
    counted = f"{survivors} receptions and private masks, {dropped * survivors} pairwise masks"
    return {"seconds": seconds, "reckoned_from": f"{sample} of each of {counted}"}
