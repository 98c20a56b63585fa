"""The coordinator: no base model, no records, no GPU."""
