"""`python mlflow_model.py MODEL.joblib FOLDER`: save the pipeline as an MLflow model.

`mlflow models serve` then serves the folder.
"""

import sys

import joblib
import mlflow.sklearn

if __name__ == "__main__":
    model = joblib.load(sys.argv[1])
    mlflow.sklearn.save_model(
        model,
        sys.argv[2],
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
