"""What is signed in a federation, as values: instructions, deliveries, versions, counts, privacy of a job."""
