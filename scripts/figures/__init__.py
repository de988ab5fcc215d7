"""Draw pictures from the logs of trainings."""
