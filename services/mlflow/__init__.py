"""What the MLflow server's image adds to MLflow."""
