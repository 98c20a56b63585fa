"""What a job would cost and send, worked out before it runs."""
