"""Programs that the chart runs during installation, upgrade and `helm test`."""
