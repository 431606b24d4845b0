"""What `benchmarks.gpu` measures: a module per part."""
