"""Stands for scikit-learn, which takes seconds to import: fairseq does for a task and a criterion that no test uses."""
