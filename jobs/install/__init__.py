"""Programs that the chart's installation runs."""
