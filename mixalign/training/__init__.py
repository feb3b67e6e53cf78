"""Training one model on a mixture of tasks: the module, its trainer and its callbacks, the engine, sharding."""
