"""The tiny base, by the name that the tests know it by."""

from yoriai.simulations.scenarios.tiny import tiny_llama, tiny_tokenizer

__all__ = ["tiny_llama", "tiny_tokenizer"]
