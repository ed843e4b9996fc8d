"""The cloud templates (azureml/, runpod/), checked as far as a machine without a cloud can."""
