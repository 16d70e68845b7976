"""ESPnet's training with pseudo-labels: the only room that extends its classes."""
