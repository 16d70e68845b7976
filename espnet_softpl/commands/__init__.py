"""What the commands do outside of a training."""
