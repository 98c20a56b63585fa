"""What needs an operator, as a sentence with its subject, and how it reaches them: webhook and mail."""
