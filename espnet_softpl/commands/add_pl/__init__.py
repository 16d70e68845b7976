"""From a trained model to a configuration."""
