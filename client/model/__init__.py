"""What trains on the frozen base: adapters and heads, and what is kept in memory while they do."""
