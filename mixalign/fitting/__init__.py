"""Offline fits of a fixed mixture, which are no mixers: RegMix on many short runs, MixMin on the specialists."""
