"""The recommendation service: catalogue, search and figures of kfashion behind HTTP."""
