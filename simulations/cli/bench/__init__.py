"""`yoriai bench`: its commands, and how they say what was measured."""
