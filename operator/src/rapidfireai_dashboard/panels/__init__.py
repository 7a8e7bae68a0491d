"""The parts of an experiment's page; each shows one side of the model and asks for what it needs beyond that."""
