"""The base at work for a job: what the job begins with, records prepared for it, and what comes of it saved."""
