"""Versions on their way to sites: promotion, what is asked and posted, the schedule, and how they are shown."""
