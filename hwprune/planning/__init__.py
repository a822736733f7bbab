"""From a model to its plan, its frontier, or what is wrong with a plan."""
