"""What lets a run that was stopped or killed go on."""
