"""Token rows to batches: the sampler that mixes, the loaders, padded and packed layouts."""
