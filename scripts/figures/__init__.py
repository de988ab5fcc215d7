"""Draw figures from the logs of trainings."""
