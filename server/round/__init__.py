"""One run's arithmetic and its memory: who takes part, what is summed, and what each round leaves behind."""
