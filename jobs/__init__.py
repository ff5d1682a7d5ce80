"""The Spark stages: events to soft targets. pyspark is imported here and nowhere else."""

from schemas.collector import pause_at_start

pause_at_start()
