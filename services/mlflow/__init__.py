"""The MLflow server, on one machine and in its image."""
