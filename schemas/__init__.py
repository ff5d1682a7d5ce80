"""What the tables promise: contracts, publishing, settings. Imports pyarrow and pydantic only."""
