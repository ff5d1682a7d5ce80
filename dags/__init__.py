"""The orchestration: which stage follows which, when, and what a failure means."""

from schemas.collector import pause_at_start

pause_at_start()
