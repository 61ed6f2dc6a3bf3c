"""The terms of a reward that is added up from several, one file a kind."""
