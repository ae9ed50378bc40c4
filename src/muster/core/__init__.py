"""The pure core: vocabulary, `step`, randomness, sums, layout of models. No ML framework, no network."""
