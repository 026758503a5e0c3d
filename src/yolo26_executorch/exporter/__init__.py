"""From a name to a tested artifact: jobs, their processes, and where these run."""
