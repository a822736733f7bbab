"""The closed loop that turns a model, a target and a budget into a measured plan."""
