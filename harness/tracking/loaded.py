"""MLflow, loaded: it takes more than a second, so who will need it may import this beside other work."""

import mlflow  # noqa: F401  # after `store`, as the package imports it: MLflow reads the environment
