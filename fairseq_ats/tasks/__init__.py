TASK_NAME = "translation_with_partitioned_model"
