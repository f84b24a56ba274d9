"""What several commands share: progress bars, options."""
