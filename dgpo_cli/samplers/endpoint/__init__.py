"""A model behind an OpenAI-compatible API: no weights, no tokenizer, no torch."""
