"""The torch stages: soft targets to recommendations. torch and mlflow are imported only here."""
