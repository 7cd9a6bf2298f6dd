"""Training runs that others measured and published, beside what our cost model predicts."""
