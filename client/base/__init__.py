"""The frozen base model: loading it, naming it by a digest, and how records pass through it."""
