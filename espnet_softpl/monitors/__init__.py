"""What is watched in pseudo-labels: statistics, collapse, errors, samples."""
