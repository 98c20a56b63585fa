"""How much is held or done at most where a model is at work: to be known without loading one."""

from typing import Final

# Hidden states of one part of the records, in bytes; larger ones lie in a file.
STATES_IN_MEMORY_BYTES: Final = 512 * 1024 * 1024
# Tokens of the vocabulary at once: enough for the product's speed, few enough to matter little in memory.
VOCABULARY_AT_ONCE: Final = 8192
# Greedy decoding is slow without a GPU, so at most this many responses are generated for exact match.
EXACT_MATCH_RECORDS: Final = 64
