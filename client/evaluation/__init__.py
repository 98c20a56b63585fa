"""What a model is worth on test records, at a site and in a simulation: baselines, calibration, labels, languages."""
