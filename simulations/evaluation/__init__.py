"""What a finished run is worth: its models side by side with intervals, calibration, labels, latency and size."""
