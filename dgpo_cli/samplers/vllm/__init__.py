"""Samplers that are vLLM: a server, or an engine in a process of its own."""
