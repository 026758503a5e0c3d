"""Models used as Ultralytics' own are used: prediction, tracking, validation."""
