"""Services that answer the workloads' requests from the same tables as ours."""
