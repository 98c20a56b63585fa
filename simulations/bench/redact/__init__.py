"""What redaction takes out of texts in which everything that should go is marked. `texts.txt` is made up."""
