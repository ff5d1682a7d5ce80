"""The Spark stages: events to soft targets. pyspark is imported here and nowhere else."""
