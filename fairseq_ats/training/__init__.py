"""Do what a task needs in an update, a validation, a save and a resume."""
