"""The environments of this project and the checks of its cloud templates."""
