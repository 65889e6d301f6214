"""From a dataset's files to batches of transitions. Knows no model."""
