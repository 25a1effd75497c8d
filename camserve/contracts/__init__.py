"""Everything that crosses a wire: requests, jobs, results, model cards. Pydantic only."""
