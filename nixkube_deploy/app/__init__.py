"""The conductor: calls the rooms in the order of the pipeline; the only place that names a backend."""
