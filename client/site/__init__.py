"""One site in a run: it charges its ledger, trains, masks and answers, and stores what comes of it."""
