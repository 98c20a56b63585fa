"""What one round means: adapters as values, the rules that combine updates, and the server's optimisers. numpy only."""
