"""Everything that touches records: base model, data, training, evaluation, and one site's side of a round."""
