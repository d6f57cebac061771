"""Studies to run. A file here is a search space: its value `study` says what is varied, on one screen."""
