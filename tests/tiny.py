"""The tiny base, by the name that the tests know it by."""

from yoriai.simulations.scenarios.tiny import CHAT_TEMPLATE, tiny_llama, tiny_tokenizer

__all__ = ["CHAT_TEMPLATE", "tiny_llama", "tiny_tokenizer"]
