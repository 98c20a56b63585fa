"""What became of finished jobs: versions with signed statements, the channels they stand in, and the server's log."""
