"""The torch stages: soft targets to recommendations. torch and mlflow are imported only here."""

import os

from schemas.collector import pause_at_start

pause_at_start()
# Waiting torch threads sleep instead of spinning: a night shares its cores with Airflow and Spark,
# and spinning then doubles the processor time of a step. Read once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
