"""A site's ledger: what was promised, charged and spent, kept so that a copy or a kill shows."""
