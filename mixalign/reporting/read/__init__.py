"""Run folders as plain objects: their files, their costs, and the labels that tell them apart."""
