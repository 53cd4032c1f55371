"""Results of runs, read from their folders without PyTorch: summaries, tables, comparisons, deletion."""
