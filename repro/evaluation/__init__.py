"""From a checkpoint to numbers, predictions and samples."""
