"""The frozen base and the adapter on it: what computes, and what is kept in memory while it does."""
