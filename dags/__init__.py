"""The orchestration: which stage follows which, when, and what a failure means."""
