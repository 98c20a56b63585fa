"""What the operating system gives: files, locks, processes, memory, logs and metrics."""
