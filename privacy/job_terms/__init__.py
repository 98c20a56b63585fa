"""What a job implies for privacy: the events of its rounds, its noise, and the fixed point of its sums."""
