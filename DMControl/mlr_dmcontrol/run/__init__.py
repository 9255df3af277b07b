"""The housekeeping of a run: configuration, seeds, folder, logs, checkpoints, guards."""
