"""What a small model keeps to itself and what goes to a large one: a calibrated threshold, redaction, a cap, a log."""
